#!/usr/bin/env bash
# A study on this machine: launch/local.sh STUDY [options of `p2p-dist run`]
set -euo pipefail
exec p2p-dist run "$@"
