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
has_gpus() { # true where this machine has any and CUDA_VISIBLE_DEVICES does not hide them
  case "${CUDA_VISIBLE_DEVICES-all}" in "" | -1 | NoDevFiles) return 1 ;; esac
  compgen -G '/dev/nvidia[0-9]*' > /dev/null || nvidia-smi -L 2> /dev/null | grep -q '^GPU'
}
if has_gpus; then # ON_GPU of scheduling/process_groups.py: a rank never computes on the CPU in its GPU's place
  export P2P_DIST_DEVICE=cuda CUDA_DEVICE_ORDER="${CUDA_DEVICE_ORDER:-PCI_BUS_ID}"
  export PYTORCH_CUDA_ALLOC_CONF="${PYTORCH_CUDA_ALLOC_CONF:-expandable_segments:True}"
  export TORCH_CUDNN_SDPA_DEPRIORITIZED="${TORCH_CUDNN_SDPA_DEPRIORITIZED:-1}"
fi
exec torchrun --standalone --nproc-per-node="$ranks" -m p2p_dist.worker --study-dir "$folder" --stages "$stages" "$@"
