"""Verification of an export: token parity on every test row, and the exported model's answers against the study's.

In float32 every answer must be equal; in bfloat16 at least 99.5 % of them, because merged weights are rounded once
more than a base and an adapter beside it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any

from transformers import PreTrainedTokenizerBase

from p2p_dist.data.built import Suite
from p2p_dist.data.example import Row
from p2p_dist.deployment.contract import Answers, Contract
from p2p_dist.deployment.finished_run import FinishedRun
from p2p_dist.deployment.reading import read_answer
from p2p_dist.deployment.template_parity import Parity, template_parity
from p2p_dist.errors import Exit, user_error
from p2p_dist.evaluation.generation import generate_suite
from p2p_dist.evaluation.label_scoring import Scoring, score_suite
from p2p_dist.modeling.base import Base
from p2p_dist.modeling.tokenization import Encoder
from p2p_dist.results import predictions
from p2p_dist.results.predictions import Generated, Prediction

LEAST_AGREEMENT = 0.995
"""Share of answers that must be the study's where either of them was computed in bfloat16."""
OnProgress = Callable[[int, int], None]


@dataclass(frozen=True)
class Flip:
    """A row that the exported model answers in another way. `margin` is the study's difference of log-probability
    between its answer and the other; None for text."""

    suite: str
    id: str
    before: str
    after: str
    margin: float | None = None


@dataclass(frozen=True)
class Agreement:
    """Answers of the exported model beside the study's."""

    rows: int
    equal: int
    flips: tuple[Flip, ...] = ()
    outside_differs: int = 0
    """Rows for which only the alarm (`outside`) differs."""
    largest_difference: float = 0.0
    """Largest difference of a deployed word's log-probability."""

    least_share: float = 1.0
    """Share of equal answers that is required."""

    @property
    def share(self) -> float:
        """Share of equal answers."""
        return self.equal / self.rows if self.rows else 1.0


@dataclass(frozen=True)
class Verification:
    """Content of `verify.json`."""

    parity: Parity
    agreement: Mapping[str, Agreement]
    """By format: merged, adapter."""
    dtype: str
    device: str
    versions: Mapping[str, str] = field(default_factory=dict)
    bare_start_token: bool = False
    """True if the tokenizer puts a start token before prompts that bypass the chat template."""

    @property
    def summary(self) -> str:
        """The verification in two sentences."""
        answers = "; ".join(f"{one.equal} of {one.rows} answers ({name})" for name, one in self.agreement.items())
        parity = self.parity
        left_out = f", {parity.cut} were cut in training" if parity.cut else ""
        left_out += f", {parity.refused} are refused for a control token" if parity.refused else ""
        return (
            f"The exported model gives {answers} as the study recorded them, in {self.dtype}. The chat template gives "
            f"the tokens of training for {parity.equal} of {parity.rows} test rows{left_out}."
        )

    def to_json(self) -> dict[str, Any]:
        """The verification as a JSON object."""
        return {
            "parity": self.parity.to_json(),
            "answers": {name: {**asdict(one), "share": one.share} for name, one in self.agreement.items()},
            "dtype": self.dtype,
            "device": self.device,
            "consumer": "p2p-dist (evaluation code)",
            "versions": dict(self.versions),
            "start_token_without_template": self.bare_start_token,
        }


@dataclass(frozen=True)
class Checks:
    """A loaded export and what it is compared with."""

    base: Base
    encoder: Encoder
    contract: Contract
    run: FinishedRun
    suites: Mapping[str, Suite]
    """Rows with the deployed prompt (see `deployed_suites`)."""


def deployed_suites(run: FinishedRun, row: Row) -> dict[str, Suite]:
    """Rows of every evaluated suite that have the deployed prompt, as `row` has it; suites without any are left out."""
    suites = {}
    for name in run.result.suites:
        suite = run.built.suites[name]
        rows = [one for one in suite.rows if (one.prefix, one.cue) == (row.prefix, row.cue)]
        if rows and suite.offset == run.built.suites["clean"].offset:
            suites[name] = replace(suite, rows=rows)
    return suites


def check_parity(tokenizer: PreTrainedTokenizerBase, checks: Checks) -> Parity:
    """Token parity of the exported tokenizer on all rows. Raises UserError E157 for a row with other tokens."""
    rows = [row for suite in checks.suites.values() for row in suite.rows]
    parity = template_parity(tokenizer, None, checks.encoder, rows)
    if parity.differing:
        what = f"the exported tokenizer gives other tokens than training for row {parity.differing[0]}"
        raise user_error("E157", what, "chat_template.jinja", "report this as a bug", Exit.INTEGRITY)
    return parity


def check_answers(checks: Checks, on_progress: OnProgress) -> Agreement:
    """Answer the suites with the exported model and compare. Raises UserError E158 when too few answers agree."""
    total, done = sum(len(suite.rows) for suite in checks.suites.values()), 0
    compared = []
    for name, suite in checks.suites.items():
        compared.append(_check_suite(checks, name, suite, partial(_report, on_progress, done, total)))
        done += len(suite.rows)
    agreement = replace(_joined(compared), least_share=_least_share(checks))
    if agreement.share < agreement.least_share:
        raise _too_few(agreement, checks.contract.base.dtype)
    return agreement


def _report(on_progress: OnProgress, before: int, total: int, rows: int) -> None:
    on_progress(before + rows, total)


def _check_suite(checks: Checks, name: str, suite: Suite, on_progress: Callable[[int], None]) -> Agreement:
    evaluation, answers = checks.run.folder.at("eval", checks.run.evaluation.id), checks.contract.answers
    if answers.kind == "generation":
        texts = generate_suite(checks.base, checks.encoder, suite, answers.max_new_tokens, on_progress)
        return _compare_texts(name, texts, predictions.read_generated(evaluation, [name])[name])
    scoring: Scoring = "whole_string" if answers.scoring == "whole_string" else "label_logits"
    lines = score_suite(checks.base, checks.encoder, suite, on_progress, scoring)
    return _compare(name, lines, predictions.read(evaluation, [name])[name], answers, checks.run.says)


def _least_share(checks: Checks) -> float:
    exact = checks.run.result.dtype == checks.contract.base.dtype == "float32"
    return 1.0 if exact else LEAST_AGREEMENT


def _compare(
    suite: str, lines: Sequence[Prediction], stored: Sequence[Prediction], answers: Answers, says: Sequence[int]
) -> Agreement:
    before = {line.id: read_answer(line, says) for line in stored}
    flips, outside, largest = [], 0, 0.0
    for line in lines:
        old, new = before[line.id], read_answer(line, answers.deployed)
        largest = max(largest, *(abs(a - b) for a, b in zip(old.scores, new.scores, strict=True)))
        outside += old.label == new.label and old.outside != new.outside
        if old.label != new.label:
            margin = old.scores[old.label] - old.scores[new.label]
            names = answers.labels[old.label].name, answers.labels[new.label].name
            flips.append(Flip(suite, line.id, *names, round(margin, 5)))
    return Agreement(len(lines), len(lines) - len(flips), tuple(flips), outside, largest)


def _compare_texts(suite: str, lines: Sequence[Generated], stored: Sequence[Generated]) -> Agreement:
    before = {line.id: line.text for line in stored}
    flips = [Flip(suite, line.id, before[line.id], line.text) for line in lines if line.text != before[line.id]]
    return Agreement(len(lines), len(lines) - len(flips), tuple(flips))


def _joined(parts: Sequence[Agreement]) -> Agreement:
    return Agreement(
        sum(part.rows for part in parts),
        sum(part.equal for part in parts),
        tuple(flip for part in parts for flip in part.flips),
        sum(part.outside_differs for part in parts),
        max((part.largest_difference for part in parts), default=0.0),
    )


def _too_few(agreement: Agreement, dtype: str) -> Exception:
    shown = "; ".join(f"{flip.suite}/{flip.id}: {flip.before!r} -> {flip.after!r}" for flip in agreement.flips[:5])
    what = (
        f"the exported model gives {agreement.equal} of {agreement.rows} answers of the study, less than "
        f"{agreement.least_share:.1%} ({shown})"
    )
    fix = "set --dtype float32, or --format adapter" if dtype == "bfloat16" else "run the study on this machine again"
    return user_error("E158", what, "verification", fix, Exit.INTEGRITY)
