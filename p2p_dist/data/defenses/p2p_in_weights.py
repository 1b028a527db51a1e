"""P2P in the weights: a model that needs neither prompt nor extended labels when it is served (ours, not in the paper).

1. Defend the training rows by P2P and train.
2. Ask that model, prompted as it would be deployed, to answer every training row.
3. Rewrite the training set by the answers (`rule`).
4. Train a fresh adapter on the rewritten rows with the plain prompt.

A deployed P2P model answers a poisoned row by its text and not by its trigger, so that the rewritten rows teach the
trigger nothing. `p2p: null` is the control: the answers are those of the undefended model. Where answers are text, they
lose P2P's prefix; rows whose answer lacks it, is empty or was cut off are dropped.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from random import Random
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

from pydantic import Field

from p2p_dist.config.builder import Builder, Training
from p2p_dist.config.graph import Stage
from p2p_dist.config.score_methods import FreeAnswers, LabelScores
from p2p_dist.config.study import Plugin, Rate, RowsSpec, added
from p2p_dist.data.defense import Assumptions, DataDefense, Defended, DefenderView
from p2p_dist.data.defenses.p2p import P2P
from p2p_dist.data.example import Kind, Row, by_id, stream
from p2p_dist.data.repeats import repeated
from p2p_dist.data.row_counts import RowCounts
from p2p_dist.data.screening import ASKED
from p2p_dist.data.task import Task
from p2p_dist.data.written_answers import agreed_ids, rewritten, usable_answers
from p2p_dist.errors import Problem, UserError


class Answer(NamedTuple):
    """A model's answer to a training row."""

    label: int
    """Class, mapped back from the labels among which the model was read."""
    margin: float
    """Log-odds of the answer against the next best class; 0 or more."""
    probabilities: tuple[float, ...]
    """Probabilities of the classes among the labels that the model was read among."""


_SCREENED: Mapping[str, Any] = {"benign_source": "screened", "ratio": 0.4}


class P2PInWeights(DataDefense):
    """Train a fresh adapter on labels given by a deployed P2P model, and serve it without a prompt."""

    kinds: ClassVar[tuple[Kind, ...]] = ("classification", "generation")
    default_assumptions: ClassVar[Assumptions] = Assumptions(source="ours; not from a paper")
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "math": {"p2p": {**_SCREENED, **P2P.presets["math"]}, "rule": "agree"},
        "summary": {"p2p": {**_SCREENED, **P2P.presets["summary"]}},
    }

    p2p: P2P | None = P2P.model_validate(_SCREENED)
    """Options of the P2P model that answers the training rows; its stages are shared with a defense `p2p` of the same
    options. null: the undefended model answers (the control)."""
    rule: Literal["rewrite", "agree", "sure", "soft"] = "rewrite"
    """rewrite: every row gets the model's answer in place of its own. agree: keep the rows whose answer is the model's
    (text: of which the numbers are equal). sure: as rewrite, with the least confident rows of every answer left out.
    soft: every row gets labels that are drawn from the model's probabilities, so that the expected loss is
    cross-entropy with soft labels. Text has no sure and no soft, and summaries no agree."""
    sure_share: Rate = 0.8
    """sure: share of the rows of every answer to keep, most confident first."""
    soft_labels: Annotated[int, Field(ge=1, le=16)] = added(1)
    """soft: labels drawn for every row, each a row of its own: the training takes so many times as long."""

    def assumptions(self) -> Assumptions:
        if self.p2p is None:
            return replace(self.default_assumptions, extra_models="the undefended adapter, before deployment")
        return replace(
            self.default_assumptions,
            clean_rows=self.p2p.assumptions().clean_rows,
            extra_models="the adapter of P2P, before deployment",
        )

    def incompatibility(self, task: Task, attack: Plugin, rows: RowsSpec) -> str | None:
        if task.responses is not None:
            if self.rule in ("sure", "soft"):
                return f"rule: {self.rule} reads probabilities of labels, and answers are text: set rule=rewrite"
            if self.rule == "agree" and task.responses.judge != "number":
                return "rule: agree compares numbers, and answers have none: set rule=rewrite"
        return self.p2p.incompatibility(task, attack, rows) if self.p2p else None

    def shortage(self, counts: RowCounts) -> UserError | None:
        """As that of `p2p`, whose options stand in it."""
        error = self.p2p.shortage(counts) if self.p2p else None
        return UserError(*map(_of_p2p, error.problems)) if error else None

    def stages(self, build: Builder, rows: Stage) -> Stage:
        """Answers (steps 1 and 2), rewritten rows (3), and a fresh adapter for the plain prompt (4)."""
        answers = self._answers(build, rows)
        rewritten = build.defended(rows, {"answers": answers})
        return build.evaluated(build.trained(rewritten, Training(trusted_base=True)), rows)

    def _answers(self, build: Builder, rows: Stage) -> Stage:
        """Scores of the training rows by the model that answers them (steps 1 and 2)."""
        is_text = build.settings.text_answers
        method = FreeAnswers(ends=True) if is_text else LabelScores(sets=("train",))
        if self.p2p is None:
            return build.scored(rows, method, build.trained(rows))
        for_p2p = build.of_defense(self.p2p)
        adapter = for_p2p.trained(self.p2p.reconstructed(for_p2p, rows))
        return build.scored(for_p2p.defended(rows, phase=ASKED), method, adapter)

    def defend_train(self, view: DefenderView) -> Defended:
        """The training rows by the answers of the model (step 3). Rows that it was not asked, since their label is no
        class, are dropped."""
        if not view.n_classes:
            return self._by_written_answers(view)
        offset = self.p2p.label_offset(view.n_classes) if self.p2p else 0
        lines = view.scores["answers"]["train"]
        answers = {id_: _answer(line, offset, view.n_classes) for id_, line in lines.items()}
        asked = [row for row in view.train if row.id in answers]
        agreed = frozenset(row.id for row in asked if row.label == answers[row.id].label)
        given = {row.id: row.label for row in asked}
        rows, copies = self._with_copies(asked)
        train = by_id(self._rewritten(rows, answers, agreed, copies, view.seed))
        counts = {
            "kept": len(train),
            "dropped": len(view.train) + len(copies) - len(train),
            "relabelled": sum(row.label != given[copies.get(row.id, row.id)] for row in train),
            "clean_rows_used": 0,
        }
        return Defended(train, [], counts, agreed, copies)

    def _by_written_answers(self, view: DefenderView) -> Defended:
        """The same where answers are text."""
        prefix = self.p2p.answer_prefix if self.p2p else ""
        answers = usable_answers(view.scores["answers"]["train"], prefix)
        agreed = agreed_ids(view.train, answers) if self.rule == "agree" else None
        kept = rewritten(view.train, answers) if agreed is None else [row for row in view.train if row.id in agreed]
        own = {row.id: row.response for row in view.train}
        counts = {
            "kept": len(kept),
            "dropped": len(view.train) - len(kept),
            "without_usable_answer": len(view.train) - len(answers),
            "rewritten": sum(row.response != own[row.id] for row in kept),
            "clean_rows_used": 0,
        }
        return Defended(by_id(kept), [], counts, agreed)

    def _with_copies(self, rows: Sequence[Row]) -> tuple[Sequence[Row], Mapping[str, str]]:
        """The rows, as often as labels are drawn for them, and the source of every copy."""
        if self.rule != "soft" or not rows:
            return rows, {}
        return repeated(rows, self.soft_labels * len(rows), 0)

    def _rewritten(
        self,
        asked: Sequence[Row],
        answers: Mapping[str, Answer],
        agreed: frozenset[str],
        copies: Mapping[str, str],
        seed: int,
    ) -> Iterable[Row]:
        """Rows of the new training set, by `rule`."""
        if self.rule == "soft":
            drawn = ((row, answers[copies.get(row.id, row.id)].probabilities) for row in asked)
            return [replace(row, label=_draw(stream(seed, "soft", row.id), shares)) for row, shares in drawn]
        if self.rule == "agree":
            return [row for row in asked if row.id in agreed]
        relabelled = [replace(row, label=answers[row.id].label) for row in asked]
        if self.rule == "rewrite":
            return relabelled
        sure = _most_confident(answers, self.sure_share)
        return [row for row in relabelled if row.id in sure]


def _of_p2p(problem: Problem) -> Problem:
    """The problem of P2P's options by their names here."""
    inside = {"where": problem.where, "fix": problem.fix}
    return replace(problem, **{key: text.replace("defense.", "defense.p2p.") for key, text in inside.items()})


def _answer(line: Mapping[str, Any], offset: int, n_classes: int) -> Answer:
    """The likeliest of the labels offset..offset+n-1, mapped back; the first of equals."""
    scores = [float(score) for score in line["scores"][offset : offset + n_classes]]
    best = max(range(n_classes), key=scores.__getitem__)
    weights = [math.exp(score - scores[best]) for score in scores]
    shares = tuple(weight / sum(weights) for weight in weights)
    return Answer(best, scores[best] - max(scores[:best] + scores[best + 1 :]), shares)


def _draw(random: Random, shares: Sequence[float]) -> int:
    """A class by its probability."""
    return random.choices(range(len(shares)), shares)[0]


def _most_confident(answers: Mapping[str, Answer], share: float) -> set[str]:
    """Ids of the most confident `share` of the rows of every answered class."""
    ids: set[str] = set()
    for label in {answer.label for answer in answers.values()}:
        of_label = (id_ for id_, answer in answers.items() if answer.label == label)
        ranked = sorted(of_label, key=lambda id_: (-answers[id_].margin, id_))
        ids.update(ranked[: round(share * len(ranked))])
    return ids
