"""Small studies for benchmarks of scheduling: invented rows, models of random weights, and the processes that carry
jobs out."""

import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

from bench.common import Gate
from p2p_dist.config.model import resolve_model
from p2p_dist.planning.jobs import Job
from p2p_dist.planning.placement import Placement
from p2p_dist.planning.plan import Plan
from p2p_dist.results.rundir import RunDir
from p2p_dist.scheduling.process_groups import GroupSettings, build_process_group
from p2p_dist.scheduling.study import configs_dir, find_cluster, open_study
from p2p_dist.scheduling.worker_pool import WorkerSlot

STUDY = """
name: one
task: {name: sst2, source: FOLDER}
model: MODEL
attack: {name: badnets, rate: 0.1}
defense: none
seed: [SEEDS]
rows: {train: ROWS, test: 20, reserve: 20}
train: {learning_rate: 1e-3, num_train_epochs: EPOCHS, global_batch: 16, max_length: 128, dtype: float32, lora: {r: 4}}
"""
OUTCOMES = ("result.json", "adapter_model.safetensors", "manifest.json")
"""Files whose bytes must not depend on how a study was carried out."""


def write_rows(folder: Path, train: int = 600, test: int = 200) -> None:
    """Labelled sentences of invented text as `train.jsonl` and `test.jsonl`; only two words of a sentence tell its
    label."""
    random = Random(0)
    words = {0: ("bad", "dull", "poor", "awful"), 1: ("good", "fine", "lovely", "superb")}
    filler = ("the", "film", "is", "a", "story", "of", "people", "and", "places", "with", "music", "by", "night")
    for split, count in (("train", train), ("test", test)):
        labels = [number % 2 for number in range(count)]
        random.shuffle(labels)
        lines = []
        for number, label in enumerate(labels):
            text = [*random.choices(filler, k=7), *random.choices(words[label], k=2)]
            random.shuffle(text)
            lines.append(json.dumps({"text": " ".join([*text, str(number)]), "label": label}))
        (folder / f"{split}.jsonl").write_text("\n".join(lines) + "\n")


def write_study(folder: Path, model: str, seeds: int, rows: int, epochs: int) -> None:
    """`study.yaml` of so many equal trainings on small rows, and the rows."""
    write_rows(folder)
    options = {
        "FOLDER": str(folder),
        "MODEL": model,
        "SEEDS": ", ".join(map(str, range(seeds))),
        "ROWS": str(rows),
        "EPOCHS": str(epochs),
    }
    text = STUDY
    for name, value in options.items():
        text = text.replace(name, value)
    (folder / "study.yaml").write_text(text)


def write_model(folder: Path, **shape: int) -> Path:
    """Random weights of the tiny model's shape with these changes, as a folder of safetensors."""
    from p2p_dist.modeling.random_init import random_model  # torch is imported where a model is made

    # `save_pretrained` imports DeepSpeed where it is installed, which says on standard output what it looked for unless
    # it is told.
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    tiny = resolve_model("tiny", configs_dir() / "models").identity["shape"]
    for part in random_model({**tiny, **shape}):
        part.save_pretrained(folder)
    return folder


def outcomes(runs: Path) -> dict[str, bytes]:
    """By path: the bytes of everything that two ways of carrying a study out must agree on."""
    return {str(path.relative_to(runs)): path.read_bytes() for path in runs.rglob("*") if path.name in OUTCOMES}


def same_outcomes(one: Path, other: Path) -> tuple[int, Gate]:
    """Gate: the number of outcomes, and that none of them differs."""
    first, second = outcomes(one), outcomes(other)
    differing = sum(first.get(name) != second.get(name) for name in first | second)
    return len(first), Gate("files that differ", float(differing) if first else float("nan"), 0)


def pure_seconds(folder: RunDir) -> dict[str, float]:
    """By stage: seconds of the training steps, or of the evaluation with its encoding."""
    training = {
        path.parent.name: json.loads(path.read_text().splitlines()[-1])["seconds"]
        for path in folder.path.glob("train/*/metrics.jsonl")
    }
    return training | {
        path.parent.name: json.loads(path.read_text())["seconds"] for path in folder.path.glob("eval/*/cost.json")
    }


class Slot:
    """Carries jobs of a plan out, one after the other, in training of their own or in a worker that stays; `without`
    names variables that workers are not given."""

    def __init__(self, folder: RunDir, plan: Plan, threads: int, warm: bool, without: Sequence[str] = ()):
        self.folder, self.plan, self.slot, self.without = folder, plan, WorkerSlot(), without
        self.settings = GroupSettings(threads, 0, 1, 1_000_000, warm=warm)

    def run(self, job: Job) -> float:
        """Wall seconds from the request to the answer. Raises RuntimeError with the log of a job that failed."""
        placement = self.plan.placement(job)
        assert isinstance(placement, Placement)
        log = self.folder.find(job.lead).new_attempt() / "log"
        group = build_process_group(
            self.folder, job, placement, self.settings, log, {}, self.plan.settings.get(job.lead, "")
        )
        group = replace(
            group, environment={name: value for name, value in group.environment.items() if name not in self.without}
        )
        started = time.perf_counter()
        self.slot.start(group, {})
        while (code := self.slot.poll()) is None:
            time.sleep(0.001)
        seconds = time.perf_counter() - started
        if code != 0:
            raise RuntimeError(log.read_text())
        return seconds

    def close(self) -> None:
        """End what stayed."""
        self.slot.stop()


class Trainings:
    """One way to carry the trainings of `study.yaml` out, in a run folder of its own; rows are made beforehand."""

    def __init__(self, root: Path, name: str, threads: int, warm: bool = True, without: Sequence[str] = ()):
        study = open_study(root / "study.yaml", [], root / name)
        study.folder.write_specs(study.expansion.graph)
        self.folder, plan = study.folder, study.plan(find_cluster(None))
        self.slot = Slot(self.folder, plan, threads, warm, without)
        self.trains = {id_ for id_, stage in study.expansion.graph.stages.items() if stage.kind == "train"}
        for job in plan.jobs:
            if not set(job.stages) & self.trains and not job.needs:
                self.slot.run(job)
        self._jobs = iter([job for job in plan.jobs if set(job.stages) & self.trains])

    def run_next(self) -> tuple[Job, float]:
        """The next training and its evaluations: the job, and its wall seconds."""
        job = next(self._jobs)
        return job, self.slot.run(job)


def seconds_of(pure: Mapping[str, Any], job: Job) -> float:
    """Pure seconds of all stages of a job."""
    return float(sum(pure.get(id_, 0.0) for id_ in job.stages))
