"""Scripts that start ranks without the scheduler set the variables of a worker on a GPU (`process_groups.ON_GPU`)."""

import os
import subprocess
from pathlib import Path

import pytest

from p2p_dist.scheduling.process_groups import ON_GPU

ROOT = Path(__file__).parents[2]
LINES = {
    "slurm/run.sbatch": ["{folder}", "abc"],
    "launch/torchrun.sh": ["1", "{folder}", "abc"],
}
STARTERS = ("srun", "torchrun")
SLURM = {"SLURM_JOB_NODELIST": "here", "SLURM_JOB_ID": "7"}
both = pytest.mark.parametrize("script", LINES)


def variables_of_a_rank(script: str, folder: Path, gpus: int, **users: str) -> dict[str, str]:
    """Run a script on a machine with so many GPUs, whose starter of ranks prints its variables."""
    tools = folder / "tools"
    tools.mkdir()
    programs = dict.fromkeys(STARTERS, "env") | {"scontrol": "echo here"}
    for name, does in {**programs, **({"nvidia-smi": "echo 'GPU 0: NVIDIA H200'"} if gpus else {})}.items():
        (tools / name).write_text(f"#!/bin/sh\n{does}\n")
        (tools / name).chmod(0o755)
    kept = {name: value for name, value in os.environ.items() if name not in (*ON_GPU, "CUDA_VISIBLE_DEVICES")}
    given = {"SLURM_GPUS_ON_NODE": str(gpus)} if gpus else {}
    variables = {**kept, **SLURM, **given, "PATH": f"{tools}:{os.environ['PATH']}", **users}
    line = ["bash", str(ROOT / script), *(word.format(folder=folder) for word in LINES[script])]
    done = subprocess.run(line, env=variables, capture_output=True, text=True, check=True)
    return dict(each.split("=", 1) for each in done.stdout.splitlines() if "=" in each)


@both
def test_scripts_set_the_variables_of_workers_on_gpus(script: str, tmp_path: Path) -> None:
    """All of them with their values; the user's own count."""
    found = variables_of_a_rank(script, tmp_path, 1, TORCH_CUDNN_SDPA_DEPRIORITIZED="0")
    expected = {**ON_GPU, "TORCH_CUDNN_SDPA_DEPRIORITIZED": "0"}
    assert {name: found.get(name) for name in ON_GPU} == expected


@both
def test_scripts_set_values_of_their_own_where_none_is_set(script: str, tmp_path: Path) -> None:
    found = variables_of_a_rank(script, tmp_path, 2)
    assert {name: found.get(name) for name in ON_GPU} == ON_GPU


@both
def test_scripts_leave_ranks_without_gpus_alone(script: str, tmp_path: Path) -> None:
    """No GPU was granted, or the user hides those of the machine."""
    hidden = {"CUDA_VISIBLE_DEVICES": "", "SLURM_GPUS_ON_NODE": "0"}
    assert not ON_GPU.keys() & variables_of_a_rank(script, tmp_path, 1, **hidden).keys()
