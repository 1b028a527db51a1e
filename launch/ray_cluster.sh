#!/usr/bin/env bash
# A Ray cluster by hand, one node at a time, with a token that all nodes share.
#
#   launch/ray_cluster.sh head [options of `ray start`]              on the first machine: prints its address and stays
#   launch/ray_cluster.sh join HOST:PORT [options of `ray start`]    on every other machine
#
# RAY_AUTH_TOKEN_PATH names the token's file (default ~/.p2p-dist/ray-token; made by `head` if it is not there, mode 0600); copy it to
# the others before they join. PORT is the head's (default 6379). Then, anywhere with that token:
#   export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=~/.p2p-dist/ray-token
#   p2p-dist run STUDY --backend ray --address HOST:PORT --nodes N
set -euo pipefail
umask 077
export RAY_AUTH_MODE=token RAY_USAGE_STATS_ENABLED=0 RAY_worker_niceness=0
export RAY_TMPDIR="${RAY_TMPDIR:-/tmp}" # a TMPDIR may be too long for the paths of Ray's sockets (107 characters)
export RAY_AUTH_TOKEN_PATH="${RAY_AUTH_TOKEN_PATH:-$HOME/.p2p-dist/ray-token}"
case "${1:-}" in
  head)
    mkdir -p "$(dirname "$RAY_AUTH_TOKEN_PATH")"
    [ -s "$RAY_AUTH_TOKEN_PATH" ] || python3 -c 'import secrets; print(secrets.token_hex(32), end="")' > "$RAY_AUTH_TOKEN_PATH"
    exec ray start --head --block --port="${PORT:-6379}" --dashboard-host=127.0.0.1 "${@:2}"
    ;;
  join) exec ray start --block --address="${2:?HOST:PORT of the head}" "${@:3}" ;;
  *)
    sed -n '2,10s/^# \{0,1\}//p' "$0" >&2
    exit 2
    ;;
esac
