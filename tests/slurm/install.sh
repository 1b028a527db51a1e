#!/usr/bin/env bash
# Install what the tests on a real Slurm need, where that is possible: Debian's slurm-wlm and iproute2, as root.
set -euo pipefail
missing=
for program in slurmctld slurmd sbatch ip; do
  command -v "$program" > /dev/null || missing="$missing $program"
done
[ -n "$missing" ] || exit 0
if [ "$(id -u)" -ne 0 ] || ! command -v apt-get > /dev/null; then
  echo "tests/slurm/install.sh: not root on Debian; the tests say why they are skipped"
  exit 0
fi
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq && apt-get install -y -qq --no-install-recommends slurm-wlm iproute2 > /dev/null \
  || echo "tests/slurm/install.sh: could not install slurm-wlm; the tests say why they are skipped"
