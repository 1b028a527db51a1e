#!/usr/bin/env bash
# The benchmarks of the training engine on one GPU, in at most ten minutes:
#   bench/gpu.sh [--dry-run] [--json] [--minutes M] [--only NAME ...]
# It needs torch, transformers, peft and accelerate, and downloads nothing. Wheels in wheels/ (or $WHEELS) are unpacked into a
# temporary folder first; rows that need what is neither installed nor there say that they were left out.
set -euo pipefail
cd "$(dirname "$0")/.."
if [ -z "${PYTHON:-}" ]; then
  if [ -x .venv/bin/python ]; then PYTHON=.venv/bin/python; else PYTHON=python3; fi
fi
WHEELS=${WHEELS:-wheels}
if compgen -G "$WHEELS/*.whl" > /dev/null; then
  site=$(mktemp -d)
  trap 'rm -rf "$site"' EXIT
  "$PYTHON" -m pip install --quiet --no-index --no-deps --no-compile --target "$site" "$WHEELS"/*.whl
  export PYTHONPATH="$site${PYTHONPATH:+:$PYTHONPATH}"
fi
if ! "$PYTHON" -c "import pydantic" 2> /dev/null; then
  echo "pydantic is not installed: settings, which are the benchmarks' own, are not checked" >&2
  PYTHONPATH="bench/stand_in${PYTHONPATH:+:$PYTHONPATH}"
  export PYTHONPATH
fi
export HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false
# The process ends itself in time; this is for one that the driver does not let end.
timeout --kill-after=20 "${GPU_BENCH_LIMIT:-660}" "$PYTHON" -m bench.gpu "$@"
