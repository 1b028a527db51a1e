"""Rows that nobody has checked: what accuracy on them says."""

from collections.abc import Iterable

from p2p_dist.report.groups import Group
from p2p_dist.results.resultfile import of_unknown_origin


def note(groups: Iterable[Group]) -> str:
    """Meaning of CA on rows of unknown origin; empty where the rows of all runs are as their task publishes them."""
    if not any(of_unknown_origin(run.counts) for group in groups for run in group.runs if run.rates):
        return ""
    return (
        " Nobody has said that these rows are clean, test rows included: CA is agreement with their labels, and a "
        "poisoned test row counts for a model that follows the attacker."
    )
