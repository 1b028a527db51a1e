"""Tables and pages: nothing invented, nothing executed, nothing hidden."""

import csv
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from p2p_dist.report import run_columns, status_view
from p2p_dist.report.groups import group
from p2p_dist.report.headline import DEFINITIONS, sentences
from p2p_dist.report.page import write_report
from p2p_dist.results.collect import Collected, RunState, StageState, read_study
from p2p_dist.results.rundir import RunDir
from p2p_dist.scheduling.progress import titles_of
from tests.synthetic import STUDY, make_study

HOSTILE = "<script>alert(1)</script>"
SMALL = STUDY.replace("random:qwen3-1.7b, random:qwen3-4b", "tiny")


def rate(k: int, n: int) -> dict[str, Any]:
    return {"k": k, "n": n, "rate": k / n}


def run(attack: str, defense: str, **rates: Any) -> RunState:
    cell = {"task": "sst2", "model": "tiny", "attack": attack, "defense": defense, "seed": "0"}
    stages = [StageState("a" * 12, "train", "done" if rates else "pending", {}, {"seconds": 1.5})]
    return RunState(cell, stages, rates, rate(3, 50) if attack != "none" else None, {})


RUNS = [
    run("none", "none", ca_ext=rate(90, 100)),
    run("badnets", "none", ca_ext=rate(88, 100), asr_ext=rate(50, 50)),
    run("badnets", HOSTILE, ca_ext=rate(89, 100), asr_ext=rate(2, 50), asr_nobt=rate(49, 50)),
    run("badnets", "later"),
]
COLLECTED = Collected("x", HOSTILE, RUNS, {}, [], resolved={"stages": []})


@pytest.fixture
def folder(tmp_path: Path) -> RunDir:
    found = RunDir(tmp_path / "study")
    found.path.mkdir()
    found.resolved.write_text(json.dumps({"name": "study", "description": HOSTILE, "runs": [], "stages": []}))
    return found


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, data_root: Path) -> RunDir:
    return make_study(tmp_path_factory.mktemp("made"), data_root, SMALL)


@pytest.fixture
def study(made: RunDir, tmp_path: Path) -> RunDir:
    """A copy that a test may damage."""
    return RunDir(shutil.copytree(made.path, tmp_path / made.path.name))


def written(folder: RunDir) -> str:
    titles = titles_of(json.loads(folder.resolved.read_text())["runs"])
    return write_report(folder, read_study(folder, alive=False), titles).read_text()


def test_missing_is_a_dash_and_every_rate_has_its_count() -> None:
    lines = run_columns.rows(RUNS)
    first = lines[0].cells[0]
    assert first is not None
    assert (first.k, first.n, round(first.low, 3), round(first.high, 3)) == (90, 100, 0.826, 0.945)
    assert lines[3].cells.count(None) == len(run_columns.COLUMNS) - 1, "all but the floor"
    assert run_columns.axes(RUNS) == ["attack", "defense"]


def test_page_is_inert(folder: RunDir) -> None:
    page = write_report(folder, COLLECTED, {"a" * 12: HOSTILE}).read_text()
    assert page.count("<script") == 1
    assert HOSTILE not in page
    assert "&lt;script&gt;" in page
    assert "default-src 'none'; style-src 'sha256-" in page
    assert "http:" not in page
    assert "https:" not in page
    assert "1 of 4 runs are not finished" in page
    assert all(character not in path.name for path in folder.report.rglob("*") for character in "<>()/ ")


def test_headline_in_words() -> None:
    said = sentences(group(RUNS))
    assert said[0] == (
        f"Attack success of badnets is 100.0 % (50/50) without a defense and 4.0 % (2/50) with {HOSTILE}. "
        "Clean accuracy is 88.0 % (88/100) and 89.0 % (89/100)."
    )
    assert "without the benign trigger: 98.0 % (49/50)" in said[1]
    assert "does not remove it" in said[1]
    useless = run("badnets", "useless", ca_ext=rate(89, 100), asr_ext=rate(48, 50), asr_nobt=rate(49, 50))
    assert "does not remove it" not in " ".join(sentences(group([RUNS[1], useless]))), (
        "where nothing was kept out, nothing was routed round"
    )
    assert "6.0 % (3/50)" in said[2]
    assert "One seed" in said[3]
    assert "yet" in sentences(group(RUNS[:1]))[0]


def test_page_begins_with_the_terms(folder: RunDir) -> None:
    page = write_report(folder, COLLECTED, {}).read_text()
    top = page.partition("</dl>")[0]
    terms = ["Attack success (ASR)", "Clean-model baseline", "Excess", "Benign trigger"]
    assert [term for term, _ in DEFINITIONS] == terms
    assert all(f"<dt>{term}:</dt>" in top for term, _ in DEFINITIONS)
    assert top.index("<dl") < page.index("Attack success of badnets")
    assert "floor" not in re.sub(r"data:image[^\"]*|<script.*?</script>|<style.*?</style>", "", page, flags=re.S)


def test_tables_have_no_empty_column(study: RunDir) -> None:
    written(study)
    for path in study.report.glob("tables/*.csv"):
        head, *rows = csv.reader(path.read_text().splitlines())
        for column, title in enumerate(head):
            assert any(row[column] for row in rows), f"{path.name}: {title}"


def test_comparisons_that_are_chance_are_folded(study: RunDir) -> None:
    page = written(study)
    head, *rows = csv.reader((study.report / "tables" / "comparisons.csv").read_text().splitlines())
    significant = [row[head.index("p (Holm) (detail)")] == "a difference" for row in rows]
    assert True in significant
    assert False in significant
    assert significant == sorted(significant, reverse=True)
    part = page.partition('aria-labelledby="comparisons">')[2]
    shown, folded = part.partition("<details>")[0], part.partition("<details>")[2].partition("</details>")[0]
    assert shown.count("<tr>") == 1 + significant.count(True)
    assert folded.count("<tr>") == 1 + significant.count(False)
    assert f"{significant.count(False)} of {len(rows)} comparisons that may be chance" in folded


def test_status_counts() -> None:
    facts = status_view.to_json(COLLECTED, None)
    assert (facts["runs"], facts["done"], facts["by_status"]) == (4, 3, {"done": 3, "pending": 1})
    assert "3 of 4 done; nobody works on it" in status_view.text(COLLECTED, None)


def test_everything_is_there_and_twice_the_same(study: RunDir) -> None:
    def files() -> dict[str, bytes]:
        written(study)
        return {
            str(path.relative_to(study.report)): path.read_bytes() for path in study.report.rglob("*") if path.is_file()
        }

    first = files()
    assert files() == first
    tables = {"rates_rotten_tomatoes", "comparisons", "worst_case", "examples_1", "runs", "cost", "stages"}
    assert {f"tables/{name}.{suffix}" for name in tables for suffix in ("md", "tex", "csv")} <= first.keys()
    plots = {
        "rates_rotten_tomatoes",
        "scaling_rotten_tomatoes_badnets",
        "confidence",
        "labels",
        "accuracy",
        "loss",
        "schedule",
    }
    assert {f"plots/{name}.{suffix}" for name in plots for suffix in ("svg", "png")} <= first.keys()
    page = first["index.html"].decode()
    for heading in (
        "Rates",
        "Scaling and sweeps",
        "Comparisons",
        "Model answers",
        "All runs",
        "Cost",
        "Reproduction",
    ):
        page = page.partition(f">{heading}</h2>")[2]
        assert page, f"{heading} is missing or out of order"


def test_files_of_an_earlier_report_go(study: RunDir) -> None:
    written(study)
    old = study.report / "tables" / "rates_of_long_ago.md"
    old.write_text("old")
    written(study)
    assert not old.exists()


def _lose_an_evaluation(folder: RunDir) -> str:
    run = next(
        run
        for run in json.loads(folder.resolved.read_text())["runs"]
        if run["cell"]["defense"] == "p2p" and run["cell"]["attack"] == "badnets"
    )
    (folder.at("eval", run["eval"]).result).unlink()
    return f"eval {run['eval']} is pending"


def _lose_a_training(folder: RunDir) -> str:
    run = next(run for run in json.loads(folder.resolved.read_text())["runs"] if run["cell"]["defense"] == "p2p")
    (folder.at("eval", run["eval"]).result).unlink()
    shutil.rmtree(folder.at("train", run["train"]).adapter)
    return f"train {run['train']} is pending"


def _damage_a_result(folder: RunDir) -> str:
    result = next(iter(folder.path.rglob("result.json")))
    result.write_text(result.read_text().replace('"k": ', '"k": 1', 1))
    return "damaged or edited"


def _kill_an_attempt(folder: RunDir) -> str:
    attempt = sorted(folder.path.rglob("exit.json"))[0]
    attempt.write_text('{"code": -9, "ended": 1760000100.0}')
    return "killed (SIGKILL)"


@pytest.mark.parametrize("damage", [_lose_an_evaluation, _lose_a_training, _damage_a_result, _kill_an_attempt])
def test_what_is_missing_or_went_wrong_is_named(study: RunDir, damage: Callable[[RunDir], str]) -> None:
    expected = damage(study)
    page = written(study)
    assert expected in page
    assert "Failures and missing runs" in page


def test_what_is_not_of_this_study_is_named(study: RunDir) -> None:
    (study.path / "eval" / ("f" * 12)).mkdir()
    (study.path / "train" / "notes.txt").write_text("from somebody else")
    page = written(study)
    assert (
        "2 folders or files here are of no run of the study as it was asked for last, and are not on this page: "
        f"train/notes.txt, eval/{'f' * 12}." in page
    )


def test_nothing_but_a_plan_makes_a_report(study: RunDir) -> None:
    for part in ("eval", "train"):
        shutil.rmtree(study.path / part)
    page = written(study)
    assert "No attacked model has been evaluated" in page
    assert "36 of 36 runs are not finished" in page
