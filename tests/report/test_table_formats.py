"""Tables in every format: escaped, aligned, nothing invented."""

import csv
import io
import shutil
import subprocess
from pathlib import Path

import pytest

from p2p_dist.report.table_formats import Cell, Head, Table, comma_separated, latex, markdown, tex

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
    assert r"\textbf{90.0} & -- & =1+1 \\" in text
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
