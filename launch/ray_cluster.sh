#!/usr/bin/env bash
# A Ray cluster by hand, one node at a time, with a token that all nodes share.
#
#   launch/ray_cluster.sh head                 on the first machine: prints its address and stays
#   launch/ray_cluster.sh join HOST:PORT       on every other machine
#
# RAY_AUTH_TOKEN_PATH names the token's file (made by `head` if it is not there, mode 0600); copy it to the others before they
# join. Then, anywhere with that token: p2p-dist run STUDY --backend ray --address HOST:PORT --nodes N
set -euo pipefail
umask 077
export RAY_AUTH_MODE=token RAY_USAGE_STATS_ENABLED=0
export RAY_AUTH_TOKEN_PATH="${RAY_AUTH_TOKEN_PATH:-$HOME/.p2p-dist/ray-token}"
case "${1:-}" in
  head)
    mkdir -p "$(dirname "$RAY_AUTH_TOKEN_PATH")"
    [ -s "$RAY_AUTH_TOKEN_PATH" ] || python3 -c 'import secrets; print(secrets.token_hex(32), end="")' > "$RAY_AUTH_TOKEN_PATH"
    exec ray start --head --block --port="${PORT:-6379}" --dashboard-host=127.0.0.1
    ;;
  join) exec ray start --block --address="${2:?HOST:PORT of the head}" ;;
  *)
    sed -n '2,10p' "$0"
    exit 2
    ;;
esac
