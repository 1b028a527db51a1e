"""Tables in every format: escaped, aligned, nothing invented."""

import csv
import io
import shutil
import subprocess
from pathlib import Path

import pytest

from p2p_dist.report.grid import Cell, Head, Table, comma_separated, latex, markdown, tex

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


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no LaTeX here")
def test_latex_compiles(tmp_path: Path) -> None:
    document = r"\documentclass{article}\usepackage{booktabs}\begin{document}" + latex(TABLE) + r"\end{document}"
    (tmp_path / "t.tex").write_text(document)
    subprocess.run(["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "t.tex"], cwd=tmp_path, check=True, capture_output=True)
