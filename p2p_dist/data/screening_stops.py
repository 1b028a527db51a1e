"""Stop records of screenings: how each ended, and whether it failed.

A record is the last line of a screening's scores. That of labels has the agreement of every class at its stop; that of
text answers, which has `prompts`, the one share of answers that are likeliest behind their own prompt.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from p2p_dist.data.defense import DefenderView
from p2p_dist.errors import user_error

_TRY_LABELS = (
    "train longer or faster (train.num_train_epochs, train.learning_rate), lower screening.agreement, or set "
    "screening.on_failed_screening=go_on"
)
_TRY_TEXT = (
    "choose a larger model, check some rows (rows.reserve, benign_source=clean_reserved), or set "
    "text_screening.on_failed_screening=go_on"
)
_ONE_ANSWER, _ONE_LABEL = 0.98, 0.9


class Failed(NamedTuple):
    """A screening that failed: a sentence on it, and what to try."""

    reason: str
    advice: str


def stop_records(view: DefenderView) -> list[dict[str, Any]]:
    """The stop of each screening, for the manifest; empty in the second round."""
    return [dict(scores["screening"]["stop"]) for _, scores in sorted(view.scores.items()) if "screening" in scores]


def require_success(view: DefenderView, where: str) -> None:
    """Raise UserError E270 for a failed screening, with the option `where` its settings are."""
    failed = [one for stop in stop_records(view) if (one := failure(stop))]
    if failed:
        raise user_error("E270", "; ".join(dict.fromkeys(one.reason for one in failed)), where, failed[0].advice)


def failure(stop: Mapping[str, Any]) -> Failed | None:
    """The failure of a screening by its stop record; None for one that did not fail.

    One of labels fails when its rule was never met, or when the model gives nearly all rows one answer that far fewer
    have. One of text answers fails when too few answers depend on their own prompt.
    """
    if "prompts" in stop:
        return None if stop["reached"] else Failed(_few_depend(stop), _TRY_TEXT)
    one_answer = stop.get("majority_answer", 0.0) >= _ONE_ANSWER and stop.get("majority_given", 0.0) < _ONE_LABEL
    if stop["reached"] and not one_answer:
        return None
    shares = (f"class {label} {100 * share:.0f} %" for label, share in enumerate(stop["agreement"]))
    agreement = ", ".join(shares) or "never checked"
    ending = "it ended in one class" if one_answer or _one_class(stop["agreement"]) else "its rule was never met"
    reason = f"the screening failed: {ending} (step {stop['step']}; rows answered with their given label: {agreement})"
    return Failed(reason, _TRY_LABELS)


def _few_depend(stop: Mapping[str, Any]) -> str:
    share, prompts, needed = stop["agreement"][0], stop["prompts"], stop["needed"]
    return (
        f"the screening failed: {100 * share:.0f} % of the answers are likeliest behind their own prompt, of {prompts} "
        f"prompts (by chance {100 / prompts:.0f} %; {100 * needed:.0f} % are needed)"
    )


def _one_class(agreement: Sequence[float]) -> bool:
    return len(agreement) > 1 and sum(share > 0 for share in agreement) <= 1
