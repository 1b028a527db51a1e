#!/usr/bin/env bash
# One training over several GPUs of this machine, without a scheduler: launch/torchrun.sh RANKS RUN_FOLDER STAGES [worker's options]
# One rank per GPU, or so many processes on the cores where there is none. RUN_FOLDER is the study's, as `p2p-dist data STUDY` leaves it;
# STAGES are ids, comma-separated: a job as `p2p-dist plan STUDY --json` shows it. The same command goes on after a stop; torchrun ends
# with 1 whatever the worker's exit code was.
set -euo pipefail
ranks=${1:?number of ranks}
folder=${2:?run folder of the study}
stages=${3:?ids of stages, comma-separated}
shift 3
export CUBLAS_WORKSPACE_CONFIG=:4096:8 MKL_DYNAMIC=FALSE MKL_CBWR=AUTO GOMP_SPINCOUNT=10000
export TOKENIZERS_PARALLELISM=false PYTHONUNBUFFERED=1
exec torchrun --standalone --nproc-per-node="$ranks" -m p2p_dist.worker --study-dir "$folder" --stages "$stages" "$@"
