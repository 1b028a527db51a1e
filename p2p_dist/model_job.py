"""The part of a worker that holds a model: train a cohort, then evaluate every adapter on it, in numbered steps."""

import math
import platform
import resource
import shutil
import sys
import time
from collections.abc import Sequence
from typing import Any

import torch
import transformers

from p2p_dist import assets
from p2p_dist.data.build import Built
from p2p_dist.errors import Exit
from p2p_dist.evaluation.metrics import histogram, rates
from p2p_dist.evaluation.scoring import Scoring, score_suite, scoring_of
from p2p_dist.modeling.base import Base, load_base
from p2p_dist.modeling.encode import Encoder
from p2p_dist.modeling.lora import Adapters
from p2p_dist.results import atomic, datastore, predictions, resultfile
from p2p_dist.results.predictions import Prediction
from p2p_dist.results.provenance import code_digest
from p2p_dist.results.rundir import RunDir, StageDir
from p2p_dist.spec.graph import Stage
from p2p_dist.spec.study import TrainSpec
from p2p_dist.training.adapter_io import load_adapter, read_adapter, save_adapter
from p2p_dist.training.cohort import Stopped, Trained, TrainRun, train_cohort
from p2p_dist.training.observer import FolderObserver, StopFlag


def run_model_job(folder: RunDir, stages: Sequence[Stage], checkpoint_every: int) -> int:
    """Train what is to be trained and evaluate what is to be evaluated. All stages have the same base and LoRA shape.

    SIGTERM and SIGUSR1 end it at the next step or batch with exit code 75, training states kept.
    """
    stop = StopFlag()
    try:
        return _run(folder, stages, checkpoint_every, stop)
    except Stopped:
        return Exit.REQUEUE


def _run(folder: RunDir, stages: Sequence[Stage], checkpoint_every: int, stop: StopFlag) -> int:
    # 1. The adapters of this job: those to train, and those that are only evaluated.
    to_train = [stage for stage in stages if stage.kind == "train"]
    to_evaluate = [stage for stage in stages if stage.kind == "eval"]
    ids = list(dict.fromkeys([stage.id for stage in to_train] + [stage.reads["adapter"] for stage in to_evaluate]))
    specs = {id_: folder.at("train", id_).read_stage() for id_ in ids}
    # 2. The base, frozen, with one stacked adapter for every run of the cohort.
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # nothing reads it
    first = specs[ids[0]]
    train = TrainSpec.model_validate(first.spec["train"])
    local = dict(first.local.get("model", {}))
    if "asset" in local:
        assets.fetch(local["asset"], print)
    base = load_base(first.spec["model"], local, train.dtype, train.quantization)
    adapters = Adapters(base.model, train.lora, max(1, len(to_train)))
    # 3. Train, and keep every adapter that came to its end.
    failed = _train(folder, base, adapters, to_train, checkpoint_every, stop) if to_train else set()
    # 4. Evaluate each adapter, alone, on the rows that ask for it.
    adapters.bind(slice(0, 1))
    for stage in to_evaluate:
        if stage.reads["adapter"] not in failed:
            _evaluate(folder, base, adapters, stage, stop)
    return Exit.SOME_FAILED if failed else Exit.OK


def _train(folder: RunDir, base: Base, adapters: Adapters, stages: Sequence[Stage], every: int, stop: StopFlag) -> set[str]:
    """Train a cohort and save its adapters. Returns the ids of runs that diverged."""
    started = time.perf_counter()
    specs = [TrainSpec.model_validate(stage.spec["train"]) for stage in stages]
    targets = [folder.stage(stage) for stage in stages]
    observer = FolderObserver(targets, [_fingerprint(base, stage) for stage in stages], every, stop)
    runs, cuts = [], []
    for k, (stage, spec) in enumerate(zip(stages, specs, strict=True)):
        built = datastore.read(folder.at("data", stage.reads["rows"]))
        encoded, cut = encoder(base, built, spec).rows(built.train)
        runs.append(TrainRun(spec, stage.spec["seed"], encoded, observer.resume(k), _start(folder, stage, adapters), stage.spec.get("stop_after_steps")))
        cuts.append(cut)
    found = train_cohort(base, adapters, runs, observer)
    seconds = time.perf_counter() - started
    for stage, target, run, trained, cut in zip(stages, targets, runs, found, cuts, strict=True):
        facts = {"cohort": len(stages), "cut_texts": cut, "rows": len(run.rows), "steps": trained.steps, "tokens": trained.tokens}
        atomic.write_json(target.cost, {**_cost(base, seconds), **facts, "final_loss": trained.loss if math.isfinite(trained.loss) else None})
        if trained.diverged:
            print(f"error[E401]: run {stage.id} diverged: {trained.diverged}. Try: a lower train.learning_rate", file=sys.stderr)
            continue
        _save(target, adapters, trained, str(stage.spec["model"].get("ref", stage.spec["model"]["source"])))
    return {stage.id for stage, trained in zip(stages, found, strict=True) if trained.diverged}


def _start(folder: RunDir, stage: Stage, adapters: Adapters) -> torch.Tensor | None:
    """The numbers of the adapter that a training begins with, if its stage names one."""
    return read_adapter(folder.at("train", stage.reads["start"]).adapter, adapters) if "start" in stage.reads else None


def _save(target: StageDir, adapters: Adapters, trained: Trained, base_name: str) -> None:
    if not target.adapter.exists():
        with atomic.new_folder(target.adapter) as half:
            save_adapter(half, adapters, trained.values, base_name)
    shutil.rmtree(target.checkpoints, ignore_errors=True)


def _fingerprint(base: Base, stage: Stage) -> dict[str, Any]:
    """What must be the same for a checkpoint to be gone on from; the stage's id covers config, rows, base and seed."""
    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    return {"stage": stage.id, "dtype": str(base.dtype), "device": base.device.type, **versions}


def _evaluate(folder: RunDir, base: Base, adapters: Adapters, stage: Stage, stop: StopFlag) -> None:
    started = time.perf_counter()
    source = folder.at("train", stage.reads["adapter"])
    load_adapter(source.adapter, adapters, 0)
    rows = folder.find(stage.reads["rows"])
    built = datastore.read(rows)
    spec = TrainSpec.model_validate(source.read_stage().spec["train"])
    target = folder.stage(stage)
    wanted = stage.spec["suites"] or list(built.suites)
    total = sum(len(built.suites[name].rows) for name in wanted)
    target.metrics.unlink(missing_ok=True)
    encode = encoder(base, built, spec)
    scoring = scoring_of(encode, [built.suites[name] for name in wanted])
    if scoring == "whole_string":
        print(f"{stage.id}: label words are not told apart by their first tokens, so whole words are scored", flush=True)
    suites: dict[str, list[Prediction]] = {}
    for name in wanted:
        before = sum(len(rows) for rows in suites.values())

        def tick(scored: int, before: int = before) -> None:
            target.append_metrics({"rows": before + scored, "of": total})
            if stop.requested:
                raise Stopped

        suites[name] = score_suite(base, encode, built.suites[name], tick, scoring)
        predictions.write(target, name, suites[name])
    atomic.write_json(target.cost, {**_cost(base, time.perf_counter() - started), "rows": total})
    result = result_of(stage, built, suites, scoring, base, datastore.manifest_sha256(rows), assets.file_sha256(source.adapter / "adapter_model.safetensors"))
    atomic.publish(target.result, resultfile.seal(result))


def result_of(
    stage: Stage, built: Built, suites: dict[str, list[Prediction]], scoring: Scoring, base: Base, data_sha256: str, adapter_sha256: str
) -> dict[str, Any]:
    """The content of `result.json`: the same work gives the same bytes, so what it cost is kept elsewhere."""
    expected = {name: len(built.suites[name].rows) for name in suites}
    if any(len(suites[name]) != count for name, count in expected.items()):
        raise RuntimeError(f"scored { ({name: len(rows) for name, rows in suites.items()}) } of {expected} rows")
    return {
        "stage": {"id": stage.id, "reads": dict(stage.reads), "spec": dict(stage.spec)},
        "labels": {
            "words": built.labels.words,
            "n_classes": built.labels.n_classes,
            "offset": built.labels.offset,
            "shift": built.labels.shift,
            "target": built.labels.target,
        },
        "scoring": scoring,
        "rates": {name: rate.to_json() for name, rate in rates(suites, built.labels).items()},
        "histograms": {name: histogram(rows, built.labels.words) for name, rows in suites.items()},
        "suites": {name: {"n_expected": expected[name], "n_scored": len(rows)} for name, rows in suites.items()},
        "counts": built.counts,
        "inputs": {"data_manifest_sha256": data_sha256, "adapter_sha256": adapter_sha256},
        "dtype": str(base.dtype).removeprefix("torch."),
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
    }


def encoder(base: Base, built: Built, spec: TrainSpec) -> Encoder:
    """The one encoder of training and evaluation."""
    return Encoder(base.tokenizer, built.labels.words, spec.max_length)


def _cost(base: Base, seconds: float) -> dict[str, Any]:
    peak = torch.cuda.max_memory_allocated() / 2**20 if base.device.type == "cuda" else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    gpus = 1 if base.device.type == "cuda" else 0
    return {
        "started": round(time.time() - seconds, 3),
        "seconds": round(seconds, 3),
        "gpu_seconds": round(seconds * gpus, 3),
        "host": platform.node(),
        "code": code_digest(),
        "peak_memory_mib": round(peak, 1),
        "device": torch.cuda.get_device_name() if base.device.type == "cuda" else platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "dtype": str(base.dtype).removeprefix("torch."),
    }
