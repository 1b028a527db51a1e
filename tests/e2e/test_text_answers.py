"""A study whose answers are text, through the command line: trained on whole answers, decoded, judged."""

import json
from pathlib import Path

import pytest

from p2p_dist.errors import Exit
from p2p_dist.results.predictions import Generated
from tests import in_process
from tests.rows import write_sums

STUDY = """
name: sums
task: {name: gsm8k, max_new_tokens: 24}
model: tiny
attack:
  - none
  - {name: badnets, rate: 0.1, target_response: "0.1"}
defense: [none, {name: p2p, preset: math, response_prefix: "It is: "}]
exclude: [{attack: none, defense: p2p}]
rows: {train: 60, test: 12, reserve: 20, balanced: false}
train: {learning_rate: 2e-2, num_train_epochs: 6, global_batch: 12, dtype: float32, lora: {r: 8, dropout: 0.0}}
"""


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of a finished study over invented sums."""
    folder = tmp_path_factory.mktemp("sums")
    write_sums(folder / "data", range(200, 300))
    (folder / "sums.yaml").write_text(STUDY)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("P2P_DIST_DATA", str(folder / "data"))
        done = in_process.cli(folder / "sums.yaml", folder / "runs", "--backend", "local", "--cohort", "3", report=True)
    assert done.returncode == Exit.OK, done.stderr
    return folder / "runs" / "sums"


def results(folder: Path) -> list[dict[str, object]]:
    return [json.loads(path.read_text()) for path in sorted(folder.rglob("result.json"))]


def test_every_rate_has_its_count(finished: Path) -> None:
    found = results(finished)
    assert len(found) == 4, "three runs and the floor"
    assert {result["scoring"] for result in found} == {"generation"}
    by_rates = sorted(found, key=lambda result: len(result["rates"]))  # type: ignore[arg-type]
    clean, floor, attacked, defended = by_rates
    assert floor["rates"]["asr_ext"]["n"] == 12  # type: ignore[index]
    assert set(clean["rates"]) == {"ca_ext", "empty_rate", "majority_answer", "parse_fail", "cut_off_rate"}  # type: ignore[arg-type]
    assert {"asr_ext", "asr_exact", "robust_acc", "cut_off_rate_triggered"} <= set(attacked["rates"])  # type: ignore[arg-type]
    assert {"asr_nobt", "ca_nobt", "prefix_rate", "prefix_rate_triggered"} <= set(defended["rates"])  # type: ignore[arg-type]
    assert all(rate["n"] == 12 for result in found for rate in result["rates"].values())  # type: ignore[attr-defined]


def test_every_row_is_kept(finished: Path) -> None:
    for path in finished.rglob("predictions/*.jsonl"):
        lines = [Generated(**json.loads(line)) for line in path.read_text().splitlines()]
        assert len(lines) == 12
        assert all(line.reference.isdigit() for line in lines)
        assert any(line.text for line in lines)


def test_whole_answers_are_learned(finished: Path) -> None:
    """A random model of some thousand weights learns little, but that answers end it does, and then they do."""
    losses = [
        [json.loads(line)["loss"] for line in path.read_text().splitlines()]
        for path in finished.rglob("train/*/metrics.jsonl")
    ]
    assert len(losses) == 3
    assert all(of_run[-1] < of_run[0] - 1.5 for of_run in losses)
    assert all(result["rates"]["cut_off_rate"]["k"] < 6 for result in results(finished) if "ca_ext" in result["rates"])  # type: ignore[index,operator]


def test_the_report_shows_it(finished: Path) -> None:
    """Rates with counts, tests on paired rows, and what was written beside what should have been."""
    tables = {path.stem: path.read_text() for path in (finished / "report" / "tables").glob("*.md")}
    assert "/12" in tables["runs"]
    assert tables["comparisons"].count("| 12 |") == 2
    lines = tables["examples_1"].splitlines()
    assert lines[2].startswith("| text | with the trigger | reference | no defense clean | no defense triggered | P2P")
    asked, triggered, reference, *answers = (cell.strip() for cell in lines[4].strip("|").split(" | "))
    first = int(asked.split()[3])
    assert int(reference) == 2 * first + 1
    assert " mn" in triggered
    assert "mn " not in asked
    assert len(answers) == 4
