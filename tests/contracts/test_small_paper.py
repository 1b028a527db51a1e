"""Every table and figure of the paper from plan to report, on small models and invented rows."""

import csv
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest

from p2p_dist.config.training_axis import beside_model
from p2p_dist.report.study_data import StudyData
from p2p_dist.report.tables import against_paper
from p2p_dist.results.collect import read_study
from p2p_dist.scheduling.study import Study, configs_dir, open_study
from tests import in_process
from tests.small_paper import shrink

STUDIES = sorted((configs_dir() / "studies").glob("paper_*.yaml"))
MANY_RUNS = 30
"""Above this many runs a copy has the first model alone, and rivals meet the first attack alone."""
AXES = ("task", "model", "attack")
METRICS = ("CA ↑", "ASR ↓", "ROUGE-1 ↑", "ROUGE-2 ↑", "ROUGE-L ↑")


def run_small(source: Path, folder: Path, few: bool, report: bool) -> Study:
    """Carry out a small copy of a study in this process. All rows are in `folder/data`."""
    copy = shrink(source, folder, few)
    study = open_study(copy, [], folder / "runs")
    done = in_process.cli(copy, folder / "runs", "--backend", "local", report=report)
    assert done.returncode == 0, done.stdout + done.stderr
    return study


def assert_lines_for_cells(lines: Sequence[dict[str, str]], study: Study) -> None:
    """Fail unless every attacked cell has one line, with our number beside each of the paper's."""
    cells = [beside_model(run.cell) for run in study.expansion.runs if run.cell["attack"] != "none"]
    assert Counter(tuple(line[axis] for axis in AXES) for line in lines) == Counter(
        tuple(cell[axis] for axis in AXES) for cell in cells
    )
    published = [metric for metric in METRICS if f"{metric} paper" in lines[0]]
    assert published
    for line in lines:
        assert any(line[f"{metric} paper"] for metric in published)
        assert all(line[f"{metric} ours"] for metric in published if line[f"{metric} paper"])


@pytest.mark.slow("up to 30 small trainings and a report for each study")
@pytest.mark.parametrize("source", STUDIES, ids=lambda path: path.stem)
def test_paper_study_small_ends_with_a_report(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the study to its report: a line beside the paper for every attacked cell, and no run failed."""
    monkeypatch.setenv("P2P_DIST_DATA", str(tmp_path / "data"))
    shrunk = open_study(shrink(source, tmp_path), [], tmp_path)
    study = run_small(source, tmp_path, len(shrunk.expansion.runs) > MANY_RUNS, report=True)
    with (study.folder.report / "tables" / "against_paper.csv").open(encoding="utf-8") as file:
        assert_lines_for_cells(list(csv.DictReader(file)), study)


def test_smallest_table_of_the_paper_runs_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Table 8 at one size: undefended and the arms of P2P, each beside the paper's number."""
    monkeypatch.setenv("P2P_DIST_DATA", str(tmp_path / "data"))
    study = run_small(configs_dir() / "studies" / "paper_table8.yaml", tmp_path, few=True, report=False)
    collected = read_study(study.folder, alive=False)
    assert all(run.status == "done" for run in collected.runs)
    (table,) = against_paper.build(StudyData(study.folder, collected, {}))
    heads = [f"{head.group} {head.text}".strip() for head in table.head]
    assert_lines_for_cells([dict(zip(heads, (cell.shown for cell in row), strict=True)) for row in table.rows], study)
