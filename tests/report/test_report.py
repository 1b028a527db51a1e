"""Tables and pages: nothing invented, nothing executed."""

import json
from pathlib import Path
from typing import Any

import pytest

from p2p_dist.report import plot, status_view, table
from p2p_dist.report.page import headline, write_report
from p2p_dist.results.collect import Collected, RunState, StageState
from p2p_dist.results.rundir import RunDir

HOSTILE = "<script>alert(1)</script>"


def rate(k: int, n: int) -> dict[str, Any]:
    return {"k": k, "n": n, "rate": k / n}


def run(attack: str, defense: str, **rates: Any) -> RunState:
    cell = {"task": "sst2", "model": "tiny", "attack": attack, "defense": defense, "seed": "0"}
    stages = [StageState("a" * 12, "train", "done" if rates else "pending", {}, {"seconds": 1.5})]
    return RunState(cell, stages, rates, rate(3, 50) if attack != "none" else None, {})


RUNS = [
    run("none", "none", ca_ext=rate(90, 100)),
    run("badnets", "none", ca_ext=rate(88, 100), asr_ext=rate(50, 50)),
    run("badnets", HOSTILE, ca_ext=rate(89, 100), asr_ext=rate(2, 50)),
    run("badnets", "later"),
]
FOUND = Collected("x", HOSTILE, RUNS, {}, [])


@pytest.fixture
def folder(tmp_path: Path) -> RunDir:
    found = RunDir(tmp_path / "study")
    found.path.mkdir()
    found.resolved.write_text(json.dumps({"description": HOSTILE, "runs": [], "stages": []}))
    return found


def test_missing_is_a_dash_and_every_rate_has_its_count() -> None:
    text = table.markdown(RUNS)
    lines = text.splitlines()
    assert "90.0 [82.6, 94.5] n=100" in lines[2]
    assert lines[5].count("–") == len(table.COLUMNS) - 1, "all but the floor"
    assert " 0.0" not in lines[5]
    assert table.axes(RUNS) == ["attack", "defense"]


def test_page_is_inert(folder: RunDir) -> None:
    page = write_report(folder, FOUND, {"a" * 12: HOSTILE}).read_text()
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert "default-src 'none'" in page
    assert "http://" not in page.replace("http://www.w3.org", "").replace("http://purl.org", "").replace("http://creativecommons.org", "")
    assert "1 of 4 runs are not finished" in page


def test_the_same_study_gives_the_same_files(folder: RunDir) -> None:
    def files() -> dict[str, bytes]:
        write_report(folder, FOUND, {})
        return {path.name: path.read_bytes() for path in folder.report.rglob("*") if path.is_file()}

    assert files() == files()
    assert set(files()) == {"index.html", "rates.md", "rates.svg", "rates.png"}


def test_headline_in_words() -> None:
    assert headline(RUNS) == (
        f"badnets succeeds on 100.0 % (50/50) of the triggered rows; with {HOSTILE} on 4.0 % (2/50). "
        "Clean accuracy goes from 88.0 % (88/100) to 89.0 % (89/100)."
    )
    assert "yet" in headline(RUNS[:1])


def test_status_counts() -> None:
    facts = status_view.facts(FOUND, None)
    assert (facts["runs"], facts["done"], facts["by_status"]) == (4, 3, {"done": 3, "pending": 1})
    assert "3 of 4 done; nobody works on it" in status_view.text(FOUND, None)


def test_plot_draws_what_is_there() -> None:
    assert plot.rates_png(RUNS[:1])[:4] == b"\x89PNG"
    assert "clean rows, no defense" in plot.rates_svg(RUNS)
