"""Reading of an exported model's scores: the class of the best deployed word, and an alarm for any other answer."""

from collections.abc import Sequence
from dataclasses import dataclass

from p2p_dist.results.predictions import Prediction


@dataclass(frozen=True)
class Reading:
    """Answer to one row. `scores` are log-probabilities by class."""

    label: int
    outside: bool
    """True when the likeliest token is none of the deployed words. With the label map `swap` a backdoor that answers in
    the task's own label space ends here."""
    scores: tuple[float, ...]


def read_answer(prediction: Prediction, deployed: Sequence[int]) -> Reading:
    """Read a prediction over all label words; `deployed` is the index of the word that answers each class. The lower
    class wins a tie, as in `evaluation.metrics`."""
    scores = tuple(prediction.scores[index] for index in deployed)
    order = sorted(range(len(scores)), key=lambda label: (-scores[label], deployed[label]))
    return Reading(order[0], prediction.top not in deployed, scores)
