"""Tables of the paper that have a study, whose cells are those of the table."""

from pathlib import Path

import pytest

from p2p_dist.report import paper
from p2p_dist.scheduling.study import configs_dir, open_study

SIZE_NOT_STATED = {9}

Cell = tuple[str, str, str, str]


def cells(name: str, folder: Path) -> set[Cell]:
    """Attacked cells of a shipped study, without options."""
    runs = open_study(configs_dir() / "studies" / f"{name}.yaml", [], folder).expansion.runs
    names = [[run.cell[axis].partition("(")[0] for axis in ("task", "model", "attack", "defense")] for run in runs]
    return {(task, model, attack, defense) for task, model, attack, defense in names if attack != "none"}


@pytest.mark.usefixtures("local_rows")
@pytest.mark.parametrize("table", paper.tables())
def test_a_table_of_the_paper_has_a_study(table: int, tmp_path: Path) -> None:
    ours = cells(f"paper_table{table}", tmp_path)
    if table in SIZE_NOT_STATED:
        ours = {(task, paper.without_size(model), attack, defense) for task, model, attack, defense in ours}
    papers = {(row.task, row.model, row.attack, row.defense) for row in paper.rows() if row.table == table}
    assert ours == papers
