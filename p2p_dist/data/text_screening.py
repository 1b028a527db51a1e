"""Screening of rows that are answered with text: trust those whose answer depends on their own prompt.

The trust of a row is the pointwise mutual information of its answer r and its prompt x under a model p, per token of
the answer: [log p(r | x) - mean over other rows' prompts x' of log p(r | x')] / tokens. A text that an attacker puts
into many rows, or one that has nothing to do with its prompt, is as likely behind any other prompt. The idea is that of
IFD (instruction-following difficulty, arXiv 2308.12032), which divides the loss of a response behind its instruction by
its loss without one; here prompts of other rows take the place of an empty one, and a difference that of a ratio. Pure
functions over scores. Not in the P2P paper; see docs/defenses.md.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from p2p_dist.config.builder import Builder
from p2p_dist.config.graph import Stage
from p2p_dist.config.score_methods import PromptInformation
from p2p_dist.config.study import Rate, Strict
from p2p_dist.data.defense import DefenderView
from p2p_dist.data.example import Row
from p2p_dist.data.row_counts import RowCounts
from p2p_dist.data.screening_stops import require_success
from p2p_dist.errors import UserError, user_error

ROLE = "prompts"
"""Role of the scores."""


class TextScreening(Strict):
    """Options of the screening that finds benign rows where answers are text."""

    others: Annotated[int, Field(ge=1, le=16)] = 4
    """Other rows whose prompts each answer is scored behind."""
    agreement: Rate = 0.5
    """Share of the answers that must be likelier behind their own prompt than behind any of the others. By chance it is
    1 / (others + 1), and it must be more."""
    trusted_share: Rate = 0.5
    """Draw the benign rows from this most trusted share of the rows (or from as many rows as are needed)."""
    on_failed_screening: Literal["stop", "go_on"] = "stop"
    """A screening fails where fewer answers than `agreement` are. stop: the runs that need it fail. go_on: rows are
    chosen by its scores all the same, and every view of the study says so."""

    @model_validator(mode="after")
    def _more_than_chance(self) -> Self:
        if self.agreement * (self.others + 1) <= 1:
            chance = f"1/{self.others + 1}"
            raise ValueError(f"agreement {self.agreement:g} is met by chance ({chance}): raise agreement or others")
        return self

    def score_stages(self, build: Builder, rows: Stage) -> dict[str, Stage]:
        """The score stage, by its role."""
        return {ROLE: build.scored(rows, PromptInformation(others=self.others, agreement=self.agreement))}

    def shortage(self, counts: RowCounts) -> UserError | None:
        """As `too_few_rows`."""
        return too_few_rows(counts.train, self.others)

    def trusted_ids(self, view: DefenderView, count: int) -> set[str]:
        """Ids of the rows to trust, at least `count`. Raises UserError E270 for a failed screening with
        `on_failed_screening: stop`."""
        if self.on_failed_screening == "stop":
            require_success(view, "defense.text_screening")
        return most_dependent(view.train, view.scores[ROLE]["train"], self.trusted_share, count)


def too_few_rows(rows: int, others: int) -> UserError | None:
    """E205 where there are no more rows than other prompts to score an answer behind."""
    if rows > others:
        return None
    what = f"every answer is scored behind the prompts of {others} other rows; the training rows are {rows} in all"
    return user_error("E205", what, "defense.text_screening.others", "lower it, or add rows")


def most_dependent(rows: Sequence[Row], lines: Mapping[str, Any], share: float, count: int) -> set[str]:
    """Ids of the most trusted `share` of the rows, or of the `count` most trusted ones if these are more."""
    trust = {row.id: information(lines[row.id]) for row in rows}
    ranked = sorted(trust, key=lambda id_: (-trust[id_], id_))
    return set(ranked[: max(count, math.floor(share * len(ranked)))])


def information(line: Mapping[str, Any]) -> float:
    """Pointwise mutual information of a row's answer and prompt, in nats per token of the answer."""
    others = line["others"]
    return float((line["own"] - sum(others) / len(others)) / line["tokens"])


def stop_record(lines: Sequence[Mapping[str, Any]], agreement: float) -> dict[str, Any]:
    """The last line of the scores: the share of answers that are likeliest behind their own prompt."""
    share = sum(line["own"] > max(line["others"]) for line in lines) / len(lines)
    prompts = min(len(line["others"]) for line in lines) + 1
    return {"step": 0, "reached": share >= agreement, "agreement": [share], "prompts": prompts, "needed": agreement}
