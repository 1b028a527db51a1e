"""Start the ranks of a process group as torchrun does, on this machine, and a job for groups to do."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from p2p_dist.results.rundir import RunDir
from p2p_dist.scheduling.backend import ProcessGroup
from p2p_dist.scheduling.study import open_study
from p2p_dist.worker.__main__ import Worker, main
from tests.conftest import TINY_STUDY
from tests.in_process import run_job

STUDY = TINY_STUDY.replace("train: 64", "train: 72").replace("defense: [none, p2p]", "defense: none")
"""5 steps an epoch: 72 rows and 20 reserved in batches of 16, the last batch smaller."""
LAYOUT = ("--zero", "2", "--micro-batch", "4", "--offload", "optimizer")
"""Layout of two ranks that most tests of groups have."""


def start(
    arguments: Sequence[str], world: int, environment: dict[str, str] | None = None
) -> list[subprocess.Popen[str]]:
    """One Python process for every rank, on a free port of loopback."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    processes = []
    for rank in range(world):
        rank_environment = {
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": str(world),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": port,
        }
        variables = {**os.environ, "OMP_NUM_THREADS": "1", **(environment or {}), **rank_environment}
        processes.append(
            subprocess.Popen(
                [sys.executable, *arguments], env=variables, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
            )
        )
    return processes


def run(arguments: Sequence[str], world: int, environment: dict[str, str] | None = None) -> None:
    """Start them and wait; their output is shown when one fails."""
    processes = start(arguments, world, environment)
    output = [process.communicate(timeout=480)[0] for process in processes]
    for process, text in zip(processes, output, strict=True):
        assert process.returncode == 0, text[-4000:]


class Job:
    """One train stage and its evaluation in a run folder of their own."""

    def __init__(self, folder: Path, epochs: int = 6):
        (folder / "study.yaml").write_text(STUDY.replace("num_train_epochs: 1", f"num_train_epochs: {epochs}"))
        study = open_study(folder / "study.yaml", ["attack=badnets", "exclude=[]", "seed=0"], folder / "runs")
        study.folder.write_specs(study.expansion.graph)
        self.folder: RunDir = study.folder
        stages = study.expansion.graph.stages.values()
        self.data = [stage.id for stage in stages if stage.kind == "data"]
        self.model = [stage.id for stage in stages if stage.kind in ("train", "eval")]
        self.train = self.folder.at("train", self.model[0])
        assert main(self.command(self.data)[2:]) == 0

    def command(self, stages: list[str], *options: str) -> list[str]:
        return [
            "-m",
            "p2p_dist.worker",
            "--study-dir",
            str(self.folder.path),
            "--stages",
            ",".join(stages),
            "--checkpoint-every",
            "4",
            *options,
        ]

    def start(self, world: int, *options: str) -> list[subprocess.Popen[str]]:
        return start(self.command(self.model, *options), world)

    def run_here(self, *options: str) -> int:
        """Do the job with one rank in this process, and return its exit code."""
        log = self.folder.path / "log"
        return run_job(Worker(), ProcessGroup((sys.executable, *self.command(self.model, *options)), log, cpus=1))

    def newest_checkpoint(self) -> int:
        """Step of the newest checkpoint."""
        return int(json.loads((max(self.train.checkpoints.iterdir()) / "state.json").read_text())["step"])

    def steps(self) -> int:
        return max((line["step"] for line in self.train.all_metrics()), default=0)

    def outcome(self) -> tuple[bytes, bytes]:
        return (self.train.adapter / "adapter_model.safetensors").read_bytes(), self.folder.at(
            "eval", self.model[1]
        ).result.read_bytes()
