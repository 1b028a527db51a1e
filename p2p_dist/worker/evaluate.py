"""One evaluation: answer the test suites with one adapter, write predictions per row, publish the result last."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace

import torch
import transformers
from pydantic import JsonValue

from p2p_dist import assets
from p2p_dist.config.graph import Stage
from p2p_dist.config.identity import canonical
from p2p_dist.config.stages import EvalStage, TrainStage
from p2p_dist.data.built import HELD_OUT, Built
from p2p_dist.errors import user_error
from p2p_dist.evaluation.cleangen import CleanGen
from p2p_dist.evaluation.generation import GREEDY, Decoder
from p2p_dist.evaluation.rejection import refused_rows
from p2p_dist.evaluation.scoring_mode import Line, ScoringMode, scoring_mode_of
from p2p_dist.modeling import trigger_truncation
from p2p_dist.modeling.base import Base
from p2p_dist.modeling.tokenization import Encoder
from p2p_dist.results import atomic, datastore, predictions, records, resultfile, scorestore
from p2p_dist.results.rundir import RunDir, StageDir
from p2p_dist.training.base_model import second_base
from p2p_dist.training.observer import StopFlag
from p2p_dist.worker.cost import Meter
from p2p_dist.worker.evaluator import Evaluator, Progress, answer_suite


@dataclass(frozen=True)
class EvalRows:
    """Rows of an evaluation and how their prompts are encoded."""

    folder: StageDir
    built: Built
    suites: Sequence[str]
    """Names of the suites to answer."""
    encoder: Encoder
    rejected: Mapping[str, set[str]]
    """Ids of the rows that the defense rejects, by suite; empty where none judges rows."""

    @property
    def total(self) -> int:
        """Rows of all suites to answer."""
        return sum(len(self.built.suites[name].rows) for name in self.suites)


def evaluate(folder: RunDir, evaluator: Evaluator, stage: EvalStage, training: TrainStage, stop: StopFlag) -> None:
    """Answer all suites of a stage with the adapter of `training` and publish the result.

    Raises Stopped on request, leaving no result, and UserError.
    """
    meter = Meter(evaluator.base.device, evaluator.ranks)
    target = folder.at("eval", stage.id)
    # 1. Load the adapter.
    adapter = evaluator.read(folder.at("train", training.id))
    evaluator.use(adapter)
    # 2. Read the rows.
    rows = _read_rows(folder, evaluator, stage, training)
    # 3. Choose the scoring mode and, for text, the decoder.
    decoder, reference = _decoder(folder, evaluator, stage, training, adapter)
    mode = scoring_mode_of(rows.encoder, rows.built, rows.suites, decoder)
    _check_mode(mode.scoring, evaluator, rows)
    if mode.remark and evaluator.ranks.main:
        print(f"{stage.id}: {mode.remark}", flush=True)
    # 4. Answer the suites and write the predictions.
    answers = _answer_suites(evaluator, mode, rows, target, Progress(target, rows.total, evaluator, stop))
    cost = meter.read(evaluator.base.dtype)
    # 5. Publish: cost first, result last.
    if evaluator.ranks.main:
        evaluator.base.check()
        reference.check()
        atomic.write_json(target.cost, {**cost, "rows": rows.total})
        predictions.seal(target, list(rows.suites))
        inputs = _inputs(rows, folder.at("train", training.id), training)
        result = result_of(stage.stage, rows.built, answers, mode, evaluator.base.dtype, inputs)
        result["triggers_whole"] = trigger_truncation.of_suites(rows.encoder, rows.built, rows.suites)
        result |= _reshaped(folder.at("train", training.id))
        atomic.publish(target.result, resultfile.seal(result))


def _read_rows(folder: RunDir, evaluator: Evaluator, stage: EvalStage, training: TrainStage) -> EvalRows:
    source = folder.find(stage.reads.rows)
    built = datastore.read(source)
    encoder = Encoder.of(evaluator.base, built, training.train.max_length, training.train.image_tokens)
    rejected: dict[str, set[str]] = {}
    if stage.reads.judge is not None and stage.reject is not None:
        rejected = refused_rows(scorestore.read(folder.at("score", stage.reads.judge)), stage.reject)
    return EvalRows(
        source, built, stage.suites or tuple(name for name in built.suites if name != HELD_OUT), encoder, rejected
    )


def _decoder(
    folder: RunDir, evaluator: Evaluator, stage: EvalStage, training: TrainStage, adapter: torch.Tensor
) -> tuple[Decoder, Base]:
    """The decoder of text answers by this adapter [P], and the base of its reference model: the evaluator's own unless
    the reference is another model."""
    decode = stage.decode
    if decode is None:
        return GREEDY, evaluator.base
    if stage.reads.reference is not None:
        reference = evaluator.read(folder.at("train", stage.reads.reference))
        return CleanGen(
            evaluator.base,
            decode.draft,
            decode.alpha,
            to_reference=lambda: evaluator.use(reference),
            to_target=lambda: evaluator.use(adapter),
        ), evaluator.base
    assert stage.reference is not None
    base = second_base(stage.reference, stage.local.reference, training.train)
    return CleanGen(base, decode.draft, decode.alpha), base


def _check_mode(scoring: str, evaluator: Evaluator, rows: EvalRows) -> None:
    """Raises UserError E282 and E283 for text answers under ZeRO-3 or with a defense that rejects rows."""
    if scoring != "generation":
        return
    if evaluator.lockstep:
        raise user_error(
            "E282", "text generation is not supported under ZeRO-3", "task", "use --zero 2, or evaluate on one rank"
        )
    if rows.rejected:
        raise user_error(
            "E283",
            "a defense that rejects rows cannot judge text answers",
            "defense",
            "choose another defense, or exclude this one for the task",
        )


def _answer_suites(
    evaluator: Evaluator, mode: ScoringMode[Line], rows: EvalRows, target: StageDir, progress: Progress
) -> dict[str, list[Line]]:
    """Answers by suite; the main rank writes them and marks the rejected rows."""
    answers: dict[str, list[Line]] = {}
    for name in rows.suites:
        lines = answer_suite(evaluator, mode, rows.built.suites[name], progress)
        if evaluator.ranks.main:
            if rows.rejected:
                lines = [_judged(line, rows.rejected[name]) for line in lines]
            predictions.write(target, name, lines)
        answers[name] = lines
    return answers


def _judged(line: Line, rejected: set[str]) -> Line:
    return replace(line, rejected=line.id in rejected) if isinstance(line, predictions.Prediction) else line


def _inputs(rows: EvalRows, source: StageDir, training: TrainStage) -> dict[str, JsonValue]:
    """Hashes of the rows and the adapter, and the canonical identity of the base."""
    return {
        "data_manifest_sha256": datastore.manifest_sha256(rows.folder),
        "adapter_sha256": _digest(source, training),
        "base": canonical(training.model),
    }


def _digest(source: StageDir, training: TrainStage) -> str:
    """SHA-256 of the adapter, or of the checksums of all files of a model trained in all weights."""
    file = source.checksums if training.train.is_full else source.adapter / "adapter_model.safetensors"
    return assets.file_sha256(file)


def _reshaped(source: StageDir) -> dict[str, JsonValue]:
    """Layouts of the training, where a resume changed them; empty otherwise."""
    layouts = records.read(source.cost, records.Cost, []).get("topologies", [])
    return {"reshaped": layouts} if len(layouts) > 1 else {}


def result_of(
    stage: Stage,
    built: Built,
    answers: Mapping[str, Sequence[Line]],
    mode: ScoringMode[Line],
    dtype: torch.dtype,
    inputs: Mapping[str, JsonValue],
) -> dict[str, object]:
    """Content of `result.json`. Equal work gives equal bytes, so costs are written elsewhere.

    Raises RuntimeError when a suite has more or fewer answers than rows.
    """
    expected = {name: len(built.suites[name].rows) for name in answers}
    scored = {name: len(lines) for name, lines in answers.items()}
    if scored != expected:
        raise RuntimeError(f"scored {scored} of {expected} rows")
    return {
        "stage": {"id": stage.id, "reads": dict(stage.reads), "spec": dict(stage.spec)},
        "labels": _labels(built),
        "responses": asdict(built.responses) if built.responses else None,
        "scoring": mode.scoring,
        **mode.to_dict(answers),
        "suites": {name: {"n_expected": expected[name], "n_scored": scored[name]} for name in answers},
        "counts": built.counts,
        "inputs": dict(inputs),
        "dtype": str(dtype).removeprefix("torch."),
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
    }


def _labels(built: Built) -> dict[str, object] | None:
    """Label words and their offsets; None where answers are text."""
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
