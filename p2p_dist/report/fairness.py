"""Requirements of a defense, shown beside its results: rivals compare fairly only with the same resources."""

from collections.abc import Mapping
from typing import Any

from p2p_dist.report.groups import Group
from p2p_dist.report.plots import style
from p2p_dist.report.table import Cell


def needs(found: Mapping[str, Any]) -> list[str]:
    """Clean rows, extra models and whether the prompt is kept, in the words of the defense; empty where the study does
    not say."""
    if not found:
        return ["", "", ""]
    return [str(found["clean_rows"]), str(found["extra_models"]), "yes" if found["prompt_control"] else "no"]


def short(found: Mapping[str, Any]) -> str:
    """`needs clean rows, prompt`: for columns of names; the cost table has the whole words."""
    rows, models, prompt = needs(found)
    wanted = [
        word
        for word, needed in (("clean rows", rows), ("extra model", models), ("prompt", prompt))
        if needed not in ("", "none", "no")
    ]
    return f"needs {', '.join(wanted)}" if wanted else "needs nothing" if found else ""


def defense_cell(group: Group, flag: str = "") -> Cell:
    """The defense of a group as the label of a row, with what it needs in the small print."""
    return Cell(style.title_of(group.defense), "" if group.defense == "none" else short(group.needs), flag=flag)
