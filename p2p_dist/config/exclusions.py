"""Rules of `exclude`: the cells that a study leaves out."""

from collections.abc import Collection, Mapping
from typing import Any

from p2p_dist import registry
from p2p_dist.config.study import StudySpec
from p2p_dist.errors import user_error


def names_label(name: object, label: str) -> bool:
    """True if a rule's name is a label, or the label without its options; `badnets()` is only the label `badnets`."""
    return str(name) in (label, label.partition("(")[0], f"{label}()")


def matches(rule: Mapping[str, Any], cell: Mapping[str, str]) -> bool:
    """True if every name of a rule is that of the cell."""
    return all(names_label(name, cell.get(axis, "")) for axis, name in rule.items())


def check_exclude(study: StudySpec, axes: Collection[str]) -> None:
    """Raises UserError E103 for a rule about an unknown axis."""
    for axis in (axis for rule in study.exclude for axis in rule):
        if axis not in axes:
            what = f"exclude names {axis!r}{registry.suggest(axis, axes)}"
            raise user_error("E103", what, "exclude", f"use one of {', '.join(axes)}")
