#!/usr/bin/env bash
# One training over several GPUs of this machine, without a scheduler: launch/torchrun.sh GPUS STUDY_FOLDER STAGES [options]
# STAGES are ids as `p2p-dist plan --json` shows them; the study's folder must have been written by `p2p-dist run` before.
set -euo pipefail
gpus=${1:?number of GPUs}
folder=${2:?run folder of the study}
stages=${3:?ids of stages, comma-separated}
shift 3
exec torchrun --standalone --nproc-per-node="$gpus" -m p2p_dist.worker --study-dir "$folder" --stages "$stages" "$@"
