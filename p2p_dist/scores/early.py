"""Method `early_trust`: label scores of training rows by a model that has just begun to learn the task.

A backdoor of a few per cent snaps in after the task is learned, so the model of the right early moment believes clean
labels and not yet poisoned ones (measured in docs/findings.md). That moment is read off the data alone: the first check
at which, in every class, most of a probe of training rows are answered with their given label. Neither attack, trigger,
target nor rate is known to it; it only takes for granted that no class is mostly poison.
"""

from collections.abc import Callable, Sequence

import torch

from p2p_dist.config.score_methods import EarlyTrust
from p2p_dist.data.built import Suite
from p2p_dist.data.example import Row, smallest
from p2p_dist.data.screening import answered_alike, fold_of
from p2p_dist.evaluation.label_scoring import score_suite
from p2p_dist.modeling.lora import Adapters
from p2p_dist.results.predictions import Prediction
from p2p_dist.scores.context import Context, Line
from p2p_dist.training.cohort import Observer, Stopped, train_cohort
from p2p_dist.training.train_run import TrainRun, in_turn


def score(context: Context, method: EarlyTrust) -> list[Line]:
    """One line per training row that is judged: `label`, and `scores` of the label words, averaged over the kept
    checkpoints; and one line `stop` of the set `screening` with the step, the agreement of every class there, and
    whether the rule was met.

    With `folds`, the rows of part `fold` are judged by a training on all others; else all rows are trained on and
    judged.
    """
    assert context.adapters is not None
    suspects, judged = _parts(context, method)
    screen = _Screen(context, method, context.adapters, judged)
    rows, _ = context.encoder.rows(suspects)
    run = TrainRun(
        context.train, context.seed + 1_000_003 * method.draw, in_turn(rows, context.built.turns), start=context.start
    )
    try:
        train_cohort(context.base, context.adapters, [run], screen)
        screen.keep_last_pass()
    except Stopped:
        if not screen.complete:
            raise
    means = torch.tensor([[row.scores for row in rows] for rows in screen.passes], dtype=torch.float64).mean(0).tolist()
    lines: list[Line] = [
        {"set": "train", "id": row.id, "label": row.label, "scores": mean}
        for row, mean in zip(judged, means, strict=True)
    ]
    stop = {
        "step": screen.first_pass_step,
        "reached": screen.reached,
        "agreement": screen.agreement,
        "checkpoints": len(screen.passes),
        **answered_alike(
            [(row.label, mean) for row, mean in zip(judged, means, strict=True)], context.built.labels.n_classes
        ),
    }
    return [*lines, {"set": "screening", "id": "stop", **stop}]


def _parts(context: Context, method: EarlyTrust) -> tuple[list[Row], list[Row]]:
    """The rows to train on and the rows to judge."""
    rows = context.built.train
    if method.folds is None or method.fold is None:
        return rows, rows
    held = fold_of((row.id for row in rows), method.folds, method.fold, context.seed)
    return [row for row in rows if row.id not in held], [row for row in rows if row.id in held]


class _Screen(Observer):
    """Checks a probe of the judged rows every few steps, and scores all judged rows once most of every class agree."""

    def __init__(self, context: Context, method: EarlyTrust, adapters: Adapters, judged: Sequence[Row]):
        self.context, self.method, self.adapters, self.judged = context, method, adapters, judged
        self.probe = _probe(judged, context.built.labels.n_classes, method.probe, context.seed)
        self.step = self.steps = self.first_pass_step = 0
        self.last_pass_step: int | None = None
        self.reached = False
        self.agreement: list[float] = []
        self.passes: list[list[Prediction]] = []

    def line(self, run: int, line: dict[str, float]) -> None:
        self.step, self.steps = int(line["step"]), int(line["steps"])
        self._report()

    def stop_requested(self) -> bool:
        if self.step % self.method.check_every:
            return False
        if not self.reached:
            self.agreement = agreement(self._scored(self.probe))
            self.reached = min(self.agreement) >= self.method.agreement
        if self.reached:
            self.keep_pass()
        return self.complete

    @property
    def complete(self) -> bool:
        """True once there are as many passes as the scores are averaged over."""
        return len(self.passes) >= self.method.checkpoints

    def keep_pass(self) -> None:
        """Score every judged row with the model as it is now."""
        self.first_pass_step = self.first_pass_step if self.passes else self.step
        self.last_pass_step = self.step
        self.passes.append(self._scored(self.judged, self._report))

    def keep_last_pass(self) -> None:
        """Score every judged row with the trained model where passes are missing and the last one is not of it."""
        if not self.complete and self.last_pass_step != self.step:
            self.keep_pass()

    def _scored(self, rows: Sequence[Row], on_batch: Callable[[int], None] = lambda done: None) -> list[Prediction]:
        self.adapters.no_dropout()
        return score_suite(self.context.base, self.context.encoder, Suite(list(rows), 0, triggered=False), on_batch)

    def _report(self, scored: int = 0) -> None:
        """Report the rows trained on and judged, `scored` of them in the pass at hand. The rule is expected to be met
        at the next check, and a pass at every check from then on."""
        batch, judged, kept = self.context.train.global_batch, len(self.judged), len(self.passes)
        every = self.method.check_every
        passes = self.method.checkpoints if self.step < self.steps else kept + 1
        first = self.step if self.reached else (self.step // every + 1) * every
        steps = min(self.steps, first + max(0, passes - kept - 1) * every)
        self.context.on_progress(self.step * batch + kept * judged + scored, steps * batch + passes * judged)


def agreement(rows: Sequence[Prediction]) -> list[float]:
    """Share of the rows of each given label to which the model gives that label."""
    agrees: dict[int, list[bool]] = {}
    for row in rows:
        best = max(range(len(row.scores)), key=lambda label: (row.scores[label], -label))
        agrees.setdefault(row.label, []).append(best == row.label)
    return [sum(hits) / len(hits) for _, hits in sorted(agrees.items())]


def _probe(rows: Sequence[Row], n_classes: int, each: int, seed: int) -> list[Row]:
    """The same number of rows of every class, chosen by content. Labels that are no class of the task are left out: an
    attacker could use them to keep the agreement from being reached."""
    labels = sorted({row.label for row in rows if row.label < n_classes})
    chosen = {
        id_
        for label in labels
        for id_ in smallest([row.id for row in rows if row.label == label], each, seed, "screen.probe")
    }
    return [row for row in rows if row.id in chosen]
