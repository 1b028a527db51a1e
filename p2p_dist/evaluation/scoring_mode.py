"""Scoring modes of an evaluation: labels by their scores, or generated text; each with its part of the result."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, TypeVar

from p2p_dist.data.answer_parsing import ResponseSpace
from p2p_dist.data.built import Built, Suite
from p2p_dist.evaluation.generation import GREEDY, Decoder, generate_suite
from p2p_dist.evaluation.generation_metrics import Judgement, figures, judge_suite
from p2p_dist.evaluation.label_scoring import score_suite, scoring_of
from p2p_dist.evaluation.metrics import Rate, histogram, paired_rates, rates
from p2p_dist.modeling.base import Base
from p2p_dist.modeling.tokenization import Encoder
from p2p_dist.results.predictions import Generated, Prediction

Line = TypeVar("Line", Prediction, Generated)
OnProgress = Callable[[int], None]


class ScoringMode(ABC, Generic[Line]):
    """A method to answer rows. `scoring` is its name in the result."""

    scoring: str
    remark: str = ""
    """A line for the log; empty for none."""

    @abstractmethod
    def answers(self, base: Base, suite: Suite, on_progress: OnProgress) -> list[Line]:
        """One line per row, in their order. `on_progress(rows done)` is called after every batch."""

    @abstractmethod
    def line(self, data: Mapping[str, Any]) -> Line:
        """The inverse of a line's `to_json`."""

    @abstractmethod
    def to_dict(self, suites: Mapping[str, Sequence[Line]]) -> dict[str, Any]:
        """This mode's part of a result: `rates`, and `histograms` or `means`."""


class LabelMode(ScoringMode[Prediction]):
    """Scoring of labels."""

    def __init__(self, encoder: Encoder, built: Built, suites: Sequence[Suite]):
        self.encoder, self.labels = encoder, built.labels
        self.scoring = self.method = scoring_of(encoder, suites)
        if self.method == "whole_string":
            self.remark = "label words share first tokens, so whole words are scored"

    def answers(self, base: Base, suite: Suite, on_progress: OnProgress) -> list[Prediction]:
        return score_suite(base, self.encoder, suite, on_progress, self.method)

    def line(self, data: Mapping[str, Any]) -> Prediction:
        return Prediction(data["id"], data["label"], tuple(data["scores"]), data["top"], data.get("rejected"))

    def to_dict(self, suites: Mapping[str, Sequence[Prediction]]) -> dict[str, Any]:
        return {
            "rates": {name: rate.to_json() for name, rate in rates(suites, self.labels).items()},
            "histograms": {name: histogram(rows, self.labels.words) for name, rows in suites.items()},
        }


class TextMode(ScoringMode[Generated]):
    """Generated text, decoded greedily or by a defense's decoder."""

    scoring = "generation"

    def __init__(self, encoder: Encoder, built: Built, space: ResponseSpace, decoder: Decoder):
        self.encoder, self.built, self.space, self.decoder = encoder, built, space, decoder

    def answers(self, base: Base, suite: Suite, on_progress: OnProgress) -> list[Generated]:
        return generate_suite(base, self.encoder, suite, self.space.max_new_tokens, on_progress, self.decoder)

    def line(self, data: Mapping[str, Any]) -> Generated:
        return Generated(**data)

    def to_dict(self, suites: Mapping[str, Sequence[Generated]]) -> dict[str, Any]:
        judged = {
            name: judge_suite([row.text for row in rows], self.built.suites[name], self.space)
            for name, rows in suites.items()
        }
        shares, means = figures(judged, self.space)
        shares |= self._paired(judged)
        for name, rows in ((name, rows) for name, rows in suites.items() if rows):
            suffix = f"_{name}".replace("_clean", "")
            shares[f"cut_off_rate{suffix}"] = Rate(sum(not row.finished for row in rows), len(rows))
            if rows[0].replaced is not None:
                shares[f"replaced_rate{suffix}"] = Rate(sum(bool(row.replaced) for row in rows), len(rows))
        return {
            "rates": {name: rate.to_json() for name, rate in shares.items()},
            "means": {name: mean.to_json() for name, mean in means.items()},
            "histograms": {},
        }

    def _paired(self, judged: Mapping[str, Sequence[Judgement]]) -> dict[str, Rate]:
        """Attack success beside that of the same rows without the trigger; empty where nothing pairs."""
        says_target = {
            name: {
                row.id: bool(answer.says_target)
                for row, answer in zip(self.built.suites[name].rows, judged[name], strict=True)
            }
            for name in ("triggered", "clean")
            if name in judged
        }
        if not says_target.get("triggered"):
            return {}
        hits_by_rate = paired_rates("asr_ext", says_target["triggered"], says_target.get("clean", {}))
        return {name: Rate(sum(hits), len(hits)) for name, hits in hits_by_rate.items()}


def scoring_mode_of(
    encoder: Encoder, built: Built, suites: Sequence[str], decoder: Decoder = GREEDY
) -> ScoringMode[Any]:
    """The scoring mode of the named suites. Raises UserError E207 for two labels with one word."""
    if built.responses is not None:
        return TextMode(encoder, built, built.responses, decoder)
    return LabelMode(encoder, built, [built.suites[name] for name in suites])
