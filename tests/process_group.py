"""Start the ranks of a gang as torchrun would, on this machine, and a job for gangs to do."""

import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from p2p_dist.results.rundir import RunDir
from p2p_dist.scheduling.study import open_study
from tests.conftest import TINY_STUDY

STUDY = TINY_STUDY.replace("train: 64", "train: 72").replace("defense: [none, p2p]", "defense: none")
"""5 steps an epoch: 72 rows and 20 reserved in batches of 16, the last batch smaller."""


def start(
    arguments: Sequence[str], world: int, environment: dict[str, str] | None = None
) -> list[subprocess.Popen[str]]:
    """One Python process for every rank, on a free port of loopback."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    processes = []
    for rank in range(world):
        own = {
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": str(world),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": port,
        }
        variables = {**os.environ, "OMP_NUM_THREADS": "1", **(environment or {}), **own}
        processes.append(
            subprocess.Popen(
                [sys.executable, *arguments], env=variables, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
            )
        )
    return processes


def run(arguments: Sequence[str], world: int, environment: dict[str, str] | None = None) -> None:
    """Start them and wait; what they said is shown when one fails."""
    processes = start(arguments, world, environment)
    said = [process.communicate(timeout=300)[0] for process in processes]
    for process, text in zip(processes, said, strict=True):
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
        run(self.command(self.data), 1)

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

    def steps(self) -> int:
        return max((line["step"] for line in self.train.all_metrics()), default=0)

    def outcome(self) -> tuple[bytes, bytes]:
        return (self.train.adapter / "adapter_model.safetensors").read_bytes(), self.folder.at(
            "eval", self.model[1]
        ).result.read_bytes()
