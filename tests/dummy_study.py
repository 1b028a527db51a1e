"""A study of one train stage per job, whose worker is a small program that misbehaves as it is told."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from p2p_dist.config.graph import Stage
from p2p_dist.planning.cluster import ClusterSpec
from p2p_dist.planning.durations import Rates
from p2p_dist.planning.jobs import Job
from p2p_dist.planning.measured import Durations
from p2p_dist.planning.placement import Placement
from p2p_dist.planning.plan import Plan
from p2p_dist.results import lease
from p2p_dist.results.rundir import RunDir
from p2p_dist.scheduling import process_groups
from p2p_dist.scheduling.backend import Backend
from p2p_dist.scheduling.claims import Sole
from p2p_dist.scheduling.process_groups import GroupSettings
from p2p_dist.scheduling.scheduler import Scheduler
from p2p_dist.scheduling.state import State

WORKER = """
import argparse, os, sys, time
from pathlib import Path
parser = argparse.ArgumentParser()
for name in ("study-dir", "stages", "checkpoint-every", "zero", "offload"):
    parser.add_argument("--" + name)
parser.add_argument("--micro-batch", type=int, default=32)
parser.add_argument("--gradient-checkpointing", action="store_true")
options = parser.parse_args()
folder = Path(options.study_dir) / "train" / options.stages
attempt = len(list((folder / "attempts").iterdir()))
print("attempt", attempt, "micro-batch", options.micro_batch, flush=True)
{behaviour}
(folder / "adapter").mkdir()
"""
PLACE = Placement(1, 0, "none", 32, 1, 1, None)


@dataclass(frozen=True)
class DummyStudy:
    """A study below `folder` on a backend."""

    folder: Path
    monkeypatch: pytest.MonkeyPatch
    backend: Backend

    def run(
        self,
        behaviour: str,
        jobs: int = 1,
        stall: float = 60,
        place: Placement = PLACE,
        slots: int = 2,
        stop: Any = lambda: False,
    ) -> tuple[State, RunDir]:
        """Run jobs, every one with this behaviour."""
        (self.folder / "worker.py").write_text(WORKER.format(behaviour=behaviour))
        self.monkeypatch.setattr(process_groups, "WORKER", (str(self.folder / "worker.py"),))
        folder = RunDir(self.folder / "study")
        stages = [Stage("train", {"train": {}, "seed": seed}) for seed in range(jobs)]
        for stage in stages:
            folder.stage(stage).write_spec(stage)
        made = [Job((stage.id,), (frozenset(),), (1.0,)) for stage in stages]
        cluster = ClusterSpec(
            name="here", cpus_per_node=2, gpus_per_node=2
        )  # on paper, so that every rank takes a slot
        plan = Plan(made, {"x": place}, {stage.id: "x" for stage in stages}, Durations(Rates({}, cluster)))
        with lease.hold(folder.lease) as mine:
            settings = GroupSettings(1, int(self.backend.gpus > 0), 2, 50)
            scheduler = Scheduler(folder, self.backend, plan, slots, settings, Sole(mine), stall)
            return scheduler.run(lambda state: None, stop), folder


def endings(folder: RunDir) -> list[dict[str, Any]]:
    """The ends of all attempts."""
    return [json.loads(path.read_text()) for path in sorted(folder.path.rglob("exit.json"))]
