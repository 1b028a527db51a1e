"""Requirements of a defense, shown beside its results: rivals compare fairly only with the same resources."""

from collections.abc import Mapping
from typing import Any

from p2p_dist.report.groups import Group
from p2p_dist.report.plots import style
from p2p_dist.report.table import Cell, Head

NEEDS = (
    Head("clean rows", "clean labelled rows that the defense uses"),
    Head("extra models", "models beside the one that is defended"),
    Head("controls the prompt", "the deployed system must put something into every prompt"),
    Head("controls the decoding", "the deployed system must constrain its answers or map them back"),
)
"""Columns of `needs`."""


def needs(assumptions: Mapping[str, Any]) -> list[str]:
    """Clean rows, extra models, and control of the prompt and of the decoding; empty where the study does not say."""
    if not assumptions:
        return [""] * len(NEEDS)
    decoding = assumptions.get("decoding_control")
    return [
        str(assumptions["clean_rows"]),
        str(assumptions["extra_models"]),
        "yes" if assumptions["prompt_control"] else "no",
        "" if decoding is None else "yes" if decoding else "no",
    ]


def short(assumptions: Mapping[str, Any]) -> str:
    """`needs clean rows, prompt`: for columns of names; the cost table has the whole words."""
    words = ("clean rows", "extra model", "prompt", "decoding")
    needed = [word for word, need in zip(words, needs(assumptions), strict=True) if need not in ("", "none", "no")]
    return f"needs {', '.join(needed)}" if needed else "needs nothing" if assumptions else ""


def defense_cell(group: Group, flag: str = "") -> Cell:
    """The defense of a group as the label of a row, with what it needs in the small print."""
    return Cell(style.title_of(group.defense), "" if group.defense == "none" else short(group.needs), flag=flag)
