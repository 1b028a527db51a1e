"""Tables in every format: escaped, aligned, nothing invented."""

import csv
import io
import shutil
import subprocess
from pathlib import Path

import pytest

from p2p_dist.report.latex import latex, tex
from p2p_dist.report.table import Cell, Head, Table, without_empty_columns
from p2p_dist.report.table_formats import comma_separated, markdown

TABLE = Table(
    "t",
    "A title",
    [Head("attack"), Head("CA ↑", "", "none"), Head("ASR ↓", "", "none"), Head("CA ↑", "", "P2P_1")],
    [
        [Cell("a|b <x>"), Cell("90.0", "± 1.0 n=3×40", 90.0, best=True), Cell(""), Cell("=1+1")],
        [Cell("100 % & $_{}"), Cell("−1.5"), Cell("<0.001"), Cell("4.0")],
    ],
)


def test_markdown() -> None:
    lines = markdown(TABLE).splitlines()
    assert lines[2] == "| attack | none CA ↑ | none ASR ↓ | P2P_1 CA ↑ |"
    assert lines[4] == r"| a\|b \<x\> | **90.0** ± 1.0 n=3×40 | – | =1+1 |"


def test_csv_has_small_print_of_its_own_and_no_formulas() -> None:
    rows = list(csv.reader(io.StringIO(comma_separated(TABLE))))
    assert rows[0] == ["attack", "none CA ↑", "none CA ↑ (detail)", "none ASR ↓", "P2P_1 CA ↑"]
    assert rows[1] == ["a|b <x>", "90.0", "± 1.0 n=3×40", "", "'=1+1"]


def test_latex_is_booktabs_and_escaped() -> None:
    text = latex(TABLE)
    assert r"\multicolumn{2}{c}{none}" in text
    assert r"\cmidrule(lr){2-3} \cmidrule(lr){4-4}" in text
    assert r"P2P\_1" in text
    assert r" & $n=3\times40$ &  &  \\" in text
    assert r"\textbf{90.0} $\pm$ 1.0 & -- & =1+1 \\" in text
    assert r"100 \% \& \$\_\{\}" in text
    assert tex("\\input{x}") == r"\textbackslash{}input\{x\}"


FLAGGED = Table(
    "t",
    "A title",
    [Head("model"), Head("attack"), Head("CA ↑", "", "none"), Head("ASR ↓", "", "none"), Head("CA ↑", "", "P2P")],
    [[Cell("a"), Cell("b"), Cell("50.0", "n=9", flag="1/3 collapsed"), Cell("0.0", flag="collapsed"), Cell("90.0")]],
    lead=2,
    feet=[("clean rows", {"none": "none", "P2P": "20 %"}), ("seconds per run", {"P2P": "7"})],
)


def test_a_flag_is_in_every_format() -> None:
    assert markdown(FLAGGED).splitlines()[4] == "| a | b | 50.0 n=9, 1/3 collapsed | 0.0, collapsed | 90.0 |"
    rows = list(csv.reader(io.StringIO(comma_separated(FLAGGED))))
    assert rows[1] == ["a", "b", "50.0", "n=9, 1/3 collapsed", "0.0", "collapsed", "90.0"]
    text = latex(FLAGGED)
    assert r"a & b & 50.0$^\dagger$ & 0.0$^\dagger$ & 90.0 \\" in text
    assert "to be said in the caption" in text
    assert "dagger" not in latex(TABLE)


def test_a_foot_has_a_text_for_every_group() -> None:
    assert markdown(FLAGGED).splitlines()[5:7] == [
        "| clean rows |  | none |  | 20 % |",
        "| seconds per run |  |  |  | 7 |",
    ]
    rows = list(csv.reader(io.StringIO(comma_separated(FLAGGED))))
    assert rows[2] == ["clean rows", "", "none", "", "", "", "20 %"]
    assert r"clean rows &  & \multicolumn{2}{c}{none} & \multicolumn{1}{c}{20 \%} \\" in latex(FLAGGED)


def test_latex_leaves_out_what_no_paper_prints() -> None:
    head = [Head("task"), Head("defense"), Head("id", printed=False), Head("ASR")]
    rows = [[Cell("sst2"), Cell(name, "needs clean rows"), Cell("abc"), Cell("4.0")] for name in ("none", "P2P")]
    assert latex(Table("t", "A title", head, rows, lead=3)).splitlines()[:5] == [
        "% task: sst2",
        r"\begin{tabular}{lr}",
        r"\toprule",
        r"defense & ASR \\",
        r"\midrule",
    ]


def test_latex_counts_that_differ_stand_in_the_cells() -> None:
    rows = [
        [Cell("a"), Cell("4.0", "± 1.2 n=3×200"), Cell("5.0", "[2.1, 7.6] n=200")],
        [Cell("b"), Cell("5.0", "± 1.1 n=2×200"), Cell("6.0", "[2.2, 8.6] 12/200")],
    ]
    lines = latex(Table("t", "A title", [Head("attack"), Head("ASR"), Head("CA")], rows)).splitlines()
    assert r" &  & $n=200$ \\" in lines
    assert r"a & 4.0 $\pm$ 1.2 n=3$\times$200 & 5.0 {\scriptsize [2.1, 7.6]} \\" in lines
    assert r"b & 5.0 $\pm$ 1.1 n=2$\times$200 & 6.0 {\scriptsize [2.2, 8.6]} \\" in lines


def test_empty_columns_go_and_folded_rows_count() -> None:
    head = [Head("a"), Head("b"), Head("c", group="g"), Head("d", group="g")]
    row = [Cell("x"), Cell(""), Cell(""), Cell("1")]
    table = Table("t", "A title", head, [row], lead=2)
    assert [head.text for head in without_empty_columns(table).head] == ["a", "d"]
    assert without_empty_columns(table).lead == 1
    full = Table("t", "A title", head, [row], lead=2, folded=[[Cell("y"), Cell("z"), Cell("", flag="f"), Cell("")]])
    assert without_empty_columns(full) is full


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no LaTeX here")
def test_latex_compiles(tmp_path: Path) -> None:
    document = (
        r"\documentclass{article}\usepackage{booktabs}\begin{document}"
        + latex(TABLE)
        + latex(FLAGGED)
        + r"\end{document}"
    )
    (tmp_path / "t.tex").write_text(document)
    subprocess.run(
        ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "t.tex"],
        cwd=tmp_path,
        check=True,
        capture_output=True,
    )
