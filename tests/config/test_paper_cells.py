"""Every attacked cell of the paper's studies stands beside a number of the paper, and those with settings of ours are
marked, by name."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from p2p_dist.report.paper_settings import ATTACKED_TEST_ROWS, TEST_ROWS
from p2p_dist.scheduling.study import configs_dir
from tests.report.invented_runs import rate
from tests.report.test_paper import lines, planned

COMPARED = ""
SCREENED = "ratio 0.4 (paper: 0.2 to 0.3), benign_source screened (paper: random_from_D or disjoint)"
REWRITER = "rewriter qwen3-8b (paper: SCPN)"
SIZE = "the paper does not state the model's size"
TRIGGER = "benign_trigger 'Please read the following text: ' (paper: 'The query currently entered is: ')"
TARGET = "target_label 0 (paper: 1)"
ALONE = "benign_mode alone (paper: union or replace), method full (paper: lora)"
EXPECTED: dict[str, dict[str, int]] = {
    "paper_table1": {COMPARED: 96, SCREENED: 12},
    "paper_table2": {COMPARED: 96, SCREENED: 12},
    "paper_table3": {COMPARED: 80, SCREENED: 10, REWRITER: 16, f"{REWRITER}, {SCREENED}": 2},
    "paper_table4": {COMPARED: 20},
    "paper_table5": {COMPARED: 36, SCREENED: 12},
    "paper_table6": {COMPARED: 6, TRIGGER: 3},
    "paper_table7": {COMPARED: 36},
    "paper_table8": {COMPARED: 15, SCREENED: 5},
    "paper_table9": {SIZE: 15, f"{SCREENED}, {SIZE}": 5},
    "paper_table10": {COMPARED: 8},
    "paper_table11": {COMPARED: 4},
    "paper_table12": {COMPARED: 9, SCREENED: 3},
    "paper_figure2": {COMPARED: 2},
    "paper_figure3a": {COMPARED: 2, **{f"rate {rate} (paper: 0.02)": 2 for rate in (0.01, 0.03, 0.04, 0.05)}},
    "paper_figure3b": {COMPARED: 3, **{f"ratio {ratio} (paper: 0.2 to 0.3)": 1 for ratio in (0.05, 0.1, 0.4)}},
    "paper_figure3c": {COMPARED: 2, **{f"lora.r {rank} (paper: 16)": 2 for rank in (4, 8, 32, 64)}},
    "paper_figure4": {COMPARED: 2, TARGET: 4, ALONE: 1, f"{TARGET}, {ALONE}": 2},
    "paper_parity": {COMPARED: 2},
}
"""Attacked cells by study and by their settings that are not the paper's; cells without any are compared."""


def count_settings(name: str, folder: Path) -> Counter[str]:
    """Attacked cells of a study by their settings that are not the paper's; none of the tested rows is missing."""
    data = planned(folder, name)
    for number, run in enumerate(data.collected.runs):
        task = run.cell["task"].partition("(")[0]
        clean, attacked = TEST_ROWS.get(task, 500), ATTACKED_TEST_ROWS.get(task, 500)
        rates = {"ca_strict": rate(clean - 9, clean), "asr_strict": rate(9, attacked)}
        data.collected.runs[number] = replace(run, rates=rates)
    attacked_cells = {
        tuple(label for axis, label in run.cell.items() if axis != "seed")
        for run in data.collected.runs
        if run.cell["attack"] != "none"
    }
    table = [line for line in lines(data) if line["attack"] != "none"]
    assert len(table) == len(attacked_cells), "every attacked cell has its line"
    assert all(line["ASR ↓ paper"] for line in table)
    return Counter(line.get("other settings", COMPARED) for line in table)


@pytest.mark.usefixtures("local_rows")
@pytest.mark.parametrize("name", sorted(path.stem for path in (configs_dir() / "studies").glob("paper_*.yaml")))
def test_every_cell_has_its_number_or_is_marked(name: str, tmp_path: Path) -> None:
    """A new study or arm must be counted here, so that no cell is set beside a number of other settings in silence."""
    assert count_settings(name, tmp_path) == EXPECTED[name]
