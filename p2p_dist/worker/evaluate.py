"""Carry out an evaluation: every suite scored by one adapter, predictions kept per row, and the result published
last."""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
import transformers

from p2p_dist import assets
from p2p_dist.config.graph import Stage
from p2p_dist.config.identity import canonical
from p2p_dist.config.study import TrainSpec
from p2p_dist.data.build import Built, Suite
from p2p_dist.errors import user_error
from p2p_dist.evaluation.cleangen import CleanGen
from p2p_dist.evaluation.generation import GREEDY, Decoder
from p2p_dist.evaluation.rejection import refused_rows
from p2p_dist.evaluation.scoring_mode import Line, ScoringMode, scoring_mode_of
from p2p_dist.modeling import trigger_truncation
from p2p_dist.modeling.base import Base
from p2p_dist.modeling.lora import Adapters
from p2p_dist.modeling.tokenization import Encoder
from p2p_dist.results import atomic, datastore, predictions, resultfile, scorestore
from p2p_dist.results.rundir import RunDir, StageDir
from p2p_dist.training.adapter_io import read_adapter
from p2p_dist.training.base_model import named_base
from p2p_dist.training.cohort import Stopped
from p2p_dist.training.engine import Engine, Execution
from p2p_dist.training.gpu_use import GpuUse
from p2p_dist.training.observer import StopFlag
from p2p_dist.training.ranks import Ranks
from p2p_dist.worker.cost import Meter


@dataclass(frozen=True)
class Evaluator:
    """A base that is ready to evaluate one adapter after the other."""

    base: Base
    adapters: Adapters
    use: Callable[[torch.Tensor], None]
    """Take these numbers, [P] in fp32, as the adapter from now on."""
    ranks: Ranks
    lockstep: bool
    """All ranks hold a part of the base and score all rows; otherwise each scores its share."""


def evaluator_of(
    base: Base, adapters: Adapters, engine: Engine | None, spec: TrainSpec, execution: Execution
) -> Evaluator:
    """The base as the training left it, or as it was loaded where nothing was trained (`engine` None)."""
    if execution.zero == 3:
        from p2p_dist.training.zero import ZeroEngine

        sharded = (
            engine
            if isinstance(engine, ZeroEngine)
            else ZeroEngine(base, adapters, spec, 1, torch.zeros(adapters.size), execution)
        )
        return Evaluator(sharded.for_evaluation(), adapters, sharded.load, execution.ranks, True)
    adapters.bind(slice(0, 1))
    return Evaluator(base, adapters, lambda values: adapters.load(0, values), execution.ranks, False)


def evaluate(folder: RunDir, evaluator: Evaluator, stage: Stage, stop: StopFlag) -> None:
    """Score all suites of a stage and publish its result. Raises Stopped on request, leaving no result."""
    base, ranks = evaluator.base, evaluator.ranks
    meter = Meter(base.device, ranks)
    source = folder.at("train", stage.reads["adapter"])
    values = _numbers(evaluator, source)
    evaluator.use(values)
    rows = folder.find(stage.reads["rows"])
    built = datastore.read(rows)
    encode = Encoder.of(base.tokenizer, built, TrainSpec.model_validate(source.read_stage().spec["train"]).max_length)
    target = folder.stage(stage)
    wanted = stage.spec["suites"] or list(built.suites)
    decoder, reference = _decoder(folder, evaluator, stage, values)
    mode = scoring_mode_of(encode, built, wanted, decoder)
    if evaluator.lockstep and mode.scoring == "generation":
        raise user_error(
            "E282",
            "answers of text are not decoded while the base is sharded (ZeRO-3)",
            "task",
            "--zero 2, or evaluate on one rank",
        )
    if mode.remark and ranks.main:
        print(f"{stage.id}: {mode.remark}", flush=True)
    progress = _Progress(target, sum(len(built.suites[name].rows) for name in wanted), evaluator, stop)
    refused = _refused(folder, stage)
    if refused and mode.scoring == "generation":
        raise user_error(
            "E283", "a defense that refuses rows does not judge answers of text yet", "defense", "another defense"
        )
    suites: dict[str, list[Any]] = {}
    for name in wanted:
        suites[name] = _answers(evaluator, mode, built.suites[name], progress)
        if ranks.main:
            suites[name] = (
                [replace(row, rejected=row.id in refused[name]) for row in suites[name]] if refused else suites[name]
            )
            predictions.write(target, name, suites[name])
    cost = meter.read(base.dtype)
    if ranks.main:
        base.check()
        reference.check()
        atomic.write_json(target.cost, {**cost, "rows": progress.total})
        hashes = datastore.manifest_sha256(rows), assets.file_sha256(source.adapter / "adapter_model.safetensors")
        model = canonical(source.read_stage().spec["model"])
        result = result_of(stage, built, suites, mode, base, model, *hashes)
        whole = trigger_truncation.of_suites(encode, built, wanted)
        atomic.publish(target.result, resultfile.seal({**result, "triggers_whole": whole, **_reshaped(source)}))


def _numbers(evaluator: Evaluator, source: StageDir) -> torch.Tensor:
    """The numbers of a saved adapter, [P] in fp32, on every rank's device."""
    ranks = evaluator.ranks
    values = read_adapter(source.adapter, evaluator.adapters) if ranks.main else torch.empty(evaluator.adapters.size)
    return ranks.from_main(values.to(evaluator.base.device))


def _decoder(folder: RunDir, evaluator: Evaluator, stage: Stage, values: torch.Tensor) -> tuple[Decoder, Base]:
    """How answers are written by the adapter with these numbers [P], and the base of the model that looks them over
    (the evaluator's own, where it is another adapter or there is none)."""
    how = stage.spec.get("decode")
    if how is None:
        return GREEDY, evaluator.base
    assert how["name"] == "cleangen", how
    if "reference" in stage.reads:
        other = _numbers(evaluator, folder.at("train", stage.reads["reference"]))
        return CleanGen(
            evaluator.base, how["draft"], how["alpha"], lambda: evaluator.use(other), lambda: evaluator.use(values)
        ), evaluator.base
    spec = TrainSpec.model_validate(folder.at("train", stage.reads["adapter"]).read_stage().spec["train"])
    base = named_base(stage.spec["reference"], stage.local.get("reference", {}), spec)
    return CleanGen(base, how["draft"], how["alpha"]), base


def _refused(folder: RunDir, stage: Stage) -> dict[str, set[str]]:
    """By suite: the rows that a defense refuses to answer. Empty when none judges rows."""
    if "judge" not in stage.reads:
        return {}
    return refused_rows(scorestore.read(folder.at("score", stage.reads["judge"])), stage.spec["refuse"])


class _Interrupted(Exception):
    """This rank was asked to stop while it scored its share."""


class _Progress:
    """Lines in the stage's metrics after every batch, and a look at the stop flag."""

    def __init__(self, target: StageDir, total: int, evaluator: Evaluator, stop: StopFlag):
        self.target, self.total, self.evaluator, self.stop = target, total, evaluator, stop
        self.before = 0
        self.gpu = GpuUse.of(evaluator.base.device)
        if evaluator.ranks.main:
            target.metrics.unlink(missing_ok=True)

    def tick(self, scored: int) -> None:
        """After a batch of the suite at hand."""
        ranks, lockstep = self.evaluator.ranks, self.evaluator.lockstep
        if ranks.main:
            rows = self.before + (scored if lockstep else min(scored * ranks.world, self.total))
            self.target.append_metrics({"rows": rows, "of": self.total, **self.gpu.facts()})
        if ranks.any(self.stop.requested) if lockstep else self.stop.requested:
            raise _Interrupted


def _answers(evaluator: Evaluator, mode: ScoringMode[Line], suite: Suite, progress: _Progress) -> list[Line]:
    """One suite: each rank has every n-th row answered and all get all predictions, in the order of the rows."""
    ranks = evaluator.ranks
    share = suite if evaluator.lockstep else replace(suite, rows=suite.rows[ranks.rank :: ranks.world])
    found: list[Line] = []
    interrupted = False
    try:
        found = mode.answers(evaluator.base, share, progress.tick)
    except _Interrupted:
        interrupted = True
    if ranks.any(interrupted):
        raise Stopped
    progress.before += len(suite.rows)
    if evaluator.lockstep or ranks.world == 1:
        return found
    shares = ranks.gather_json([row.to_json() for row in found])
    ordered = (shares[at % ranks.world][at // ranks.world] for at in range(len(suite.rows)))
    return [mode.line(row) for row in ordered]


def _reshaped(source: StageDir) -> dict[str, list[str]]:
    """The layouts that an adapter was trained under, where a resume changed them; nothing to mark otherwise."""
    found = json.loads(source.cost.read_text()).get("topologies", []) if source.cost.is_file() else []
    return {"reshaped": found} if len(found) > 1 else {}


def result_of(
    stage: Stage,
    built: Built,
    suites: dict[str, list[Any]],
    mode: ScoringMode[Any],
    base: Base,
    model: str,
    data_sha256: str,
    adapter_sha256: str,
) -> dict[str, Any]:
    """The content of `result.json`: the same work gives the same bytes, so what it cost is kept elsewhere. `model` is
    the canonical identity of the base."""
    expected = {name: len(built.suites[name].rows) for name in suites}
    if any(len(suites[name]) != count for name, count in expected.items()):
        raise RuntimeError(f"scored { ({name: len(rows) for name, rows in suites.items()}) } of {expected} rows")
    return {
        "stage": {"id": stage.id, "reads": dict(stage.reads), "spec": dict(stage.spec)},
        "labels": _labels(built),
        "responses": asdict(built.responses) if built.responses else None,
        "scoring": mode.scoring,
        **mode.facts(suites),
        "suites": {name: {"n_expected": expected[name], "n_scored": len(rows)} for name, rows in suites.items()},
        "counts": built.counts,
        "inputs": {"data_manifest_sha256": data_sha256, "adapter_sha256": adapter_sha256, "base": model},
        "dtype": str(base.dtype).removeprefix("torch."),
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
    }


def _labels(built: Built) -> dict[str, Any] | None:
    """How labels were read; None where answers are text."""
    space = built.labels
    if built.responses:
        return None
    return {
        "words": space.words,
        "n_classes": space.n_classes,
        "offset": space.offset,
        "shift": space.shift,
        "target": space.target,
    }
