"""docs/report.md explains every heading, table, picture and section that a report can have."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from p2p_dist.config.expand import AXES
from p2p_dist.evaluation.generation_metrics import ROUGE
from p2p_dist.report import page, run_columns
from p2p_dist.report.answer_cells import LabelReader, TextReader
from p2p_dist.report.study_data import StudyData
from p2p_dist.report.tables import layout
from p2p_dist.results.collect import read_study
from tests.synthetic import make_study

REPORT = Path(page.__file__).parent
TEXT = (Path(__file__).parents[2] / "docs" / "report.md").read_text()
COLUMN_TABLES = re.findall(r"^\| column \| meaning \|\n\|---\|---\|\n((?:\|.*\n)+)", TEXT, re.MULTILINE)
EXPLAINED = {
    name
    for lines in COLUMN_TABLES
    for cell in re.findall(r"^\| ([^|]*) \|", lines, re.MULTILINE)
    for name in re.findall(r"`([^`]+)`", cell)
}
# Headings that the code computes, by the expression that does.
COMPUTED = {
    "axis": set(AXES),
    "column.title": {column.title for column in run_columns.COLUMNS},
    "before.gold": {LabelReader.gold, TextReader.gold},
    "CA": {layout.CA},
    "ASR": {layout.ASR},
    "MAPPED": {layout.MAPPED},
    "EXCESS": {layout.EXCESS},
    "name": {f"{name}{suffix}" for name in ROUGE for suffix in ("", "_nobt", "_triggered")},
}


def headings() -> Iterator[ast.expr]:
    """Names of the columns of every table, as written in the code."""
    for path in REPORT.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Head":
                yield node.args[0]


def test_every_heading_that_can_be_printed_is_explained() -> None:
    found: set[str] = set()
    for text in headings():
        found |= {text.value} if isinstance(text, ast.Constant) else COMPUTED[ast.unparse(text)]  # type: ignore[arg-type]
    assert len(found) > 50
    assert found - EXPLAINED == set()
    assert EXPLAINED - found == set(), "nothing is explained that is not there"


def test_report_every_table_plot_and_section_is_explained(tmp_path: Path, data_root: Path) -> None:
    """Every table picture and section of a report is explained."""
    folder = make_study(tmp_path, data_root)
    (next((folder.path / "eval").iterdir()) / "result.json").write_text("{")
    sections = page.sections(StudyData(folder, read_study(folder, alive=False), {}))
    assert len(sections) == 8 - 1, "all but the one beside the paper"
    for section in sections:
        assert f"## {section.title}\n" in TEXT
        chapter = TEXT.partition(f"## {section.title}\n")[2].partition("\n## ")[0]
        for thing in (*section.plots, *section.tables):
            assert re.search(rf"\*\*[^*]*`{thing.name.partition('_')[0]}", chapter), thing.name
    drawn = {path.stem for path in (REPORT / "plots").glob("[!_]*.py")} - {"style", "lines", "short_labels"}
    assert {name for name in drawn if not re.search(rf"`{name if name != 'gantt' else 'schedule'}[_`]", TEXT)} == set()
