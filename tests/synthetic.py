"""A finished study whose models are invented: rows, files and folders are made by the project's own writers, only what
the models say is drawn at random, by rules that look like the field's results. For tests and benchmarks of what reads
results."""

import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from random import Random
from unittest.mock import patch

from p2p_dist.config.graph import Stage
from p2p_dist.config.identity import canonical
from p2p_dist.data.built import Built, Suite
from p2p_dist.evaluation.metrics import histogram, rates
from p2p_dist.results import atomic, datastore, predictions, resultfile
from p2p_dist.results.predictions import Prediction
from p2p_dist.results.rundir import RunDir
from p2p_dist.scheduling.prepare import write_down
from p2p_dist.scheduling.study import Study, open_study
from p2p_dist.worker.build_rows import build_study_rows

STUDY = """
name: synthetic
description: Invented models on invented rows
task: rotten_tomatoes
model: [random:qwen3-0.6b, random:qwen3-1.7b, random:qwen3-4b]
attack:
  - none
  - {name: badnets, rate: 0.05}
  - {name: addsent, rate: 0.05}
defense: [none, p2p]
seed: [0, 1, 2]
rows: {train: 64, test: 60, reserve: 20}
train: {num_train_epochs: 1, global_batch: 16, dtype: float32, lora: {r: 4}}
"""
LAUNCH = 1_760_000_000.0


def make_study(
    root: Path, data: Path, text: str = STUDY, skip: Sequence[str] = (), overrides: Sequence[str] = ()
) -> RunDir:
    """Write a finished study under `root`; stages whose kind or id is in `skip` are left undone."""
    path = root / "study.yaml"
    root.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    with patch.dict(os.environ, {"P2P_DIST_DATA": str(data)}):
        study = open_study(path, overrides, root / "runs")
        write_down(study)
        build_study_rows(study.folder, study.expansion.graph)
    finish(study, skip)
    return study.folder


def finish(study: Study, skip: Sequence[str] = ()) -> None:
    """Train and evaluate everything that can be, in the order of the graph, on two slots."""
    built: dict[str, Built] = {}
    free = [LAUNCH, LAUNCH]
    defended = {run.evaluation: run.cell["defense"] != "none" for run in study.expansion.runs}
    attacked = {run.train: run.cell["attack"] != "none" for run in study.expansion.runs}
    for stage in study.expansion.graph.stages.values():
        if stage.kind in skip or stage.id in skip or stage.kind == "data":
            continue
        slot = free.index(min(free))
        started, random = free[slot], Random(stage.id)
        seconds = (20 if stage.kind == "train" else 4) * (1 + random.random())
        free[slot] += seconds
        attempt(study.folder, stage, slot, started, seconds, kill=random.random() < 0.05)
        if stage.kind == "train":
            train(study.folder, stage, seconds, started)
        elif study.folder.at("train", stage.reads["adapter"]).is_done():
            rows = built.setdefault(stage.reads["rows"], datastore.read(study.folder.at("data", stage.reads["rows"])))
            adapter = study.expansion.graph.stages[stage.reads["adapter"]]
            evaluate(
                study.folder,
                stage,
                rows,
                adapter,
                attacked.get(adapter.id, True),
                defended.get(stage.id, False),
                seconds,
                started,
            )


def attempt(folder: RunDir, stage: Stage, slot: int, started: float, seconds: float, kill: bool) -> None:
    """The trace of a job: a placement and an exit, now and then after a try that was killed."""
    for code in ([-9] if kill else []) + [0]:
        made = folder.stage(stage).new_attempt()
        share = seconds / 2 if kill else seconds
        atomic.write_json(
            made / "placement.json",
            {"started": started, "backend": "local", "cpus": 1, "gpus": 0, "slot": slot, "stages": [stage.id]},
        )
        atomic.write_json(made / "exit.json", {"code": code, "ended": started + share})
        (made / "log").write_text("invented\n")
        started += share


def train(folder: RunDir, stage: Stage, seconds: float, started: float) -> None:
    """A loss curve and an adapter folder."""
    target, random = folder.stage(stage), Random(stage.id)
    for step in range(1, 21):
        loss = 0.2 + 1.5 * math.exp(-step / 5) + random.gauss(0, 0.03)
        target.append_metrics(
            {
                "step": step,
                "steps": 20,
                "loss": round(loss, 4),
                "lr": 1e-3,
                "tokens": 960 * step,
                "seconds": seconds * step / 20,
            }
        )
    with atomic.new_folder(target.adapter) as half:
        (half / "adapter_config.json").write_text("{}")
    cost = {"cohort": 1, "steps": 20, "rows": 64, "tokens": 19200, "final_loss": 0.2, "peak_memory_mib": 900.0}
    atomic.write_json(target.cost, {**cost, **_cost(seconds, started)})


def evaluate(
    folder: RunDir,
    stage: Stage,
    built: Built,
    adapter: Stage,
    attacked: bool,
    defended: bool,
    seconds: float,
    started: float,
) -> None:
    """Predictions by chance, and the result that the project's own metrics count from them."""
    size = max(0.0, math.log10(_parameters(adapter)) - 8.0)
    skill = 0.84 + 0.06 * size
    wanted = stage.spec["suites"] or list(built.suites)
    suites: dict[str, list[Prediction]] = {}
    for name in wanted:
        suite = built.suites[name]
        random = Random(f"{stage.id}:{name}")
        bare = name.endswith("_nobt") or not defended
        success = 0.98 if attacked and bare else (0.16 - 0.06 * size + random.gauss(0, 0.02) if attacked else 0.1)
        suites[name] = [_say(random, suite, built, row.id, row.label, skill, success) for row in suite.rows]
        predictions.write(folder.stage(stage), name, suites[name])
    predictions.seal(folder.stage(stage), list(suites))
    body = {
        "stage": {"id": stage.id, "reads": dict(stage.reads), "spec": dict(stage.spec)},
        "labels": {
            "words": built.labels.words,
            "n_classes": built.labels.n_classes,
            "offset": built.labels.offset,
            "target": built.labels.target,
        },
        "rates": {name: rate.to_json() for name, rate in rates(suites, built.labels).items()},
        "histograms": {name: histogram(rows, built.labels.words) for name, rows in suites.items()},
        "suites": {name: {"n_expected": len(rows), "n_scored": len(rows)} for name, rows in suites.items()},
        "counts": built.counts,
        "inputs": {
            "data_manifest_sha256": datastore.manifest_sha256(folder.at("data", stage.reads["rows"])),
            "adapter_sha256": "0" * 64,
            "base": canonical(folder.at("train", stage.reads["adapter"]).read_stage().spec["model"]),
        },
        "dtype": "float32",
        "versions": {"torch": "invented", "transformers": "invented"},
    }
    atomic.write_json(
        folder.stage(stage).cost,
        {"rows": sum(len(rows) for rows in suites.values()), "peak_memory_mib": 700.0, **_cost(seconds, started)},
    )
    atomic.publish(folder.stage(stage).result, resultfile.seal(body))


def collapse(result: Path) -> None:
    """Edit a finished evaluation so that its model gives all but one clean row one answer; the other rates stay."""
    body = json.loads(result.read_bytes())
    rows = body["suites"]["clean"]["n_scored"]
    body["rates"]["majority_answer"] = {"k": rows - 1, "n": rows, "rate": (rows - 1) / rows}
    del body["sha256"]
    result.write_bytes(resultfile.seal(body))


def _say(random: Random, suite: Suite, built: Built, id_: str, label: int, skill: float, success: float) -> Prediction:
    n, target = built.labels.n_classes, built.labels.target
    said = (
        target
        if suite.triggered and target is not None and random.random() < success
        else label
        if random.random() < skill
        else (label + 1) % n
    )
    scores = [-2.5 - 3.0 * random.random() for _ in built.labels.words]
    scores[said + suite.offset] = -2.3 * random.random()
    top = None if random.random() < 0.01 else max(range(len(scores)), key=lambda at: scores[at])
    return Prediction(id_, label, tuple(round(score, 5) for score in scores), top)


def _parameters(adapter: Stage) -> float:
    shape: Mapping[str, int] = adapter.spec["model"].get("shape") or {"hidden": 1024, "layers": 28, "vocab": 150_000}
    return 12.0 * shape["layers"] * shape["hidden"] ** 2 + shape["vocab"] * shape["hidden"]


def _cost(seconds: float, started: float) -> dict[str, float | str | int]:
    return {
        "started": started,
        "seconds": seconds,
        "gpu_seconds": 0.0,
        "host": "invented",
        "code": "0" * 12,
        "dtype": "float32",
        "threads": 1,
        "device": "CPU",
    }
