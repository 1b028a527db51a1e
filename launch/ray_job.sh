#!/usr/bin/env bash
# A study as a job of a Ray cluster that runs already: launch/ray_job.sh STUDY [options of `p2p-dist submit ray`]
# RAY_DASHBOARD or --address is the cluster's dashboard (default http://127.0.0.1:8265). The exit code is the study's.
set -euo pipefail
exec p2p-dist submit ray --address "${RAY_DASHBOARD:-http://127.0.0.1:8265}" "$@"
