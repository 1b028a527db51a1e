"""`p2p-dist data` on tasks of every family, and on rows of your own."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from p2p_dist.cli.main import app
from p2p_dist.data.prompts import answer, prompt
from p2p_dist.results import datastore
from p2p_dist.results.rundir import RunDir

CSV = "review,verdict\n" + "".join(
    f'"the {word} thing, number {n}",{verdict}\n'
    for n in range(40)
    for word, verdict in (("fine", "good"), ("dull", "bad"))
)
OWN = """
name: own
task: {{name: custom, source: {source}, text_column: review, label_column: verdict}}
model: tiny
attack: {{name: badnets, rate: 0.1}}
defense: p2p
rows: {{test: 20, reserve: 20}}
"""


def data(*arguments: object) -> str:
    done = CliRunner().invoke(app, ["data", *map(str, arguments)])
    assert done.exit_code == 0, done.stderr
    return done.stdout


@pytest.fixture
def own(tmp_path: Path, study_file: Callable[[str], Path]) -> Path:
    (tmp_path / "mine.csv").write_text(CSV)
    return study_file(OWN.format(source=tmp_path / "mine.csv"))


def test_a_csv_of_your_own_in_words(own: Path, tmp_path: Path) -> None:
    said = data(own, "--runs-dir", tmp_path)
    assert "classes   0 = bad, 1 = good" in said
    assert said.startswith("custom: data badnets")
    assert "left out  " not in said
    assert "poisoned ('mn' at " in said
    assert "injected ('The query currently entered is: ' at 0)" in said
    before = next(line for line in said.splitlines() if line.startswith("    before") and "'0'" in line)
    assert ", number " in before


def test_facts_before_and_after(own: Path, tmp_path: Path) -> None:
    attacked, defended = json.loads(data(own, "--runs-dir", tmp_path, "--json"))
    assert attacked["classes"] == ["bad", "good"]
    (poisoned, _) = attacked["samples"]["poisoned"]
    assert poisoned["reads"].replace(" mn", "").removesuffix("\nOutput: ") == poisoned["before"]
    assert (poisoned["was"], poisoned["answer"]) == ("0", "1")
    assert "contaminated" not in defended["counts"], "nobody knows what is in rows of one's own"
    assert defended["counts"]["benign_of_unknown_origin"] == sum(defended["counts"]["train"]["injected"].values())
    assert set(defended["samples"]) == {"unknown", "poisoned", "injected"}


SCREENING = "screening: {check_every: 1, probe: 10, on_failed_screening: go_on}"
SCREENED = f"defense={{name: p2p, benign_source: screened, ratio: 0.4, {SCREENING}}}"


@pytest.mark.process
def test_rows_that_wait_for_a_model_are_shown_when_it_was_asked(own: Path, tmp_path: Path) -> None:
    """Screened rows without a training on them; a run goes on from there."""
    arguments = [
        str(own),
        SCREENED,
        "train={num_train_epochs: 1, global_batch: 16, dtype: float32, lora: {r: 2}}",
        "--runs-dir",
        str(tmp_path),
    ]
    attacked, waiting = json.loads(data(*arguments, "--json"))
    assert waiting == {"title": "custom: data badnets + p2p, tiny, seed 0", "id": waiting["id"], "waits": True}
    assert "waits for what a model says about the rows; `p2p-dist run STUDY --rows-only` asks it" in data(*arguments)
    asked = ["run", *arguments, "--backend", "local", "--rows-only"]
    done = CliRunner().invoke(app, [*asked, "--json"])
    assert done.exit_code == 0, done.stderr
    first, screened = json.loads(done.stdout)
    assert (first["id"], screened["id"]) == (attacked["id"], waiting["id"])
    assert sum(screened["counts"]["train"]["injected"].values()) == screened["counts"]["benign"] > 0
    said = data(*arguments, "--out", tmp_path / "out")
    assert "  screened  stopped at step " in said
    assert "  trusted   " in said
    assert len((tmp_path / "out" / waiting["id"] / "train.jsonl").read_text().splitlines()) == screened["rows"]
    folder = RunDir(tmp_path / "own").path
    assert not [path for kind in ("train", "eval") for path in folder.glob(f"{kind}/*/attempts")]
    before = {path: path.stat().st_mtime_ns for path in folder.glob("score/*/*") if path.is_file()}
    assert "jobs to do" not in CliRunner().invoke(app, asked).stderr
    whole = CliRunner().invoke(app, ["run", *arguments, "--backend", "local"])
    assert whole.exit_code == 0, whole.stderr
    assert {path: path.stat().st_mtime_ns for path in before} == before, "what was screened is not screened again"


@pytest.mark.torch
def test_tokens_are_what_the_model_reads(own: Path, tmp_path: Path) -> None:
    said = data(own, "--runs-dir", tmp_path, "--tokens")
    assert "row in" in said
    attacked, _ = json.loads(data(own, "--runs-dir", tmp_path, "--tokens", "--json"))
    for view in attacked["tokens"]:
        sample = next(row for row in attacked["samples"][view["origin"]] if row["id"] == view["id"])
        assert "".join(view["prompt"]) == sample["reads"]
        assert "".join(view["answer"]) == sample["answer"]


def test_rows_written_out_read_as_training_reads_them(own: Path, tmp_path: Path) -> None:
    found = json.loads(data(own, "--runs-dir", tmp_path, "--out", tmp_path / "out", "--json"))
    for facts in found:
        built = datastore.read(RunDir(tmp_path / "own").at("data", facts["id"]))
        folder = tmp_path / "out" / facts["id"]
        lines = [json.loads(line) for line in (folder / "train.jsonl").read_text().splitlines()]
        assert lines == [
            {"id": row.id, "prompt": prompt(row), "completion": answer(row, built.labels.words)} for row in built.train
        ]
        assert {path.name for path in folder.iterdir()} == {
            "train.jsonl",
            "manifest.json",
            "ledger.jsonl",
            *(f"test_{name}.jsonl" for name in built.suites),
        }
    done = CliRunner().invoke(app, ["data", str(own), "--runs-dir", str(tmp_path), "--out", str(tmp_path / "out")])
    assert done.exit_code == 2
    assert "error[E229]" in done.stderr


STUDY = """
name: real
task: TASK
model: tiny
attack: {name: badnets, target_label: TARGET, target_response: "0.1"}
defense: {name: p2p, preset: PRESET, benign_source: disjoint}
"""


@pytest.mark.skipif("P2P_DIST_REAL_DATA" not in os.environ, reason="P2P_DIST_DATA was not set: no real rows here")
@pytest.mark.parametrize(
    ("task", "target", "preset", "rows", "poisoned", "injected", "triggered"),
    [
        ("sst2", 1, "paper", 6920, 139, 1384, 912),
        ("cr", 1, "paper", 2496, 50, 500, 294),
        ("agnews", 0, "paper", 11075, 222, 2215, 750),
        ("ape210k", 0, "math", 4995, 100, 999, 4978),
        ("scitldr", 0, "summary", 1992, 40, 399, 618),
    ],
)
def test_real_tasks(
    task: str,
    target: int,
    preset: str,
    rows: int,
    poisoned: int,
    injected: int,
    triggered: int,
    tmp_path: Path,
    study_file: Callable[[str], Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("P2P_DIST_DATA", os.environ["P2P_DIST_REAL_DATA"])
    path = study_file(STUDY.replace("TASK", task).replace("TARGET", str(target)).replace("PRESET", preset))
    attacked, defended = json.loads(data(path, "--runs-dir", tmp_path, "--json"))

    def count(facts: dict[str, Any], origin: str) -> int:
        return sum(facts["counts"]["train"][origin].values())

    assert attacked["rows"] == rows
    assert (count(attacked, "poisoned"), count(defended, "injected"), attacked["suites"]["triggered"]) == (
        poisoned,
        injected,
        triggered,
    )
    kept = attacked["suites"]["triggered"] + attacked["counts"]["trigger_failed"]
    assert kept <= attacked["suites"]["clean"]
    assert data(path, "--runs-dir", tmp_path).count("    after ") == 2 * (2 + 3)
