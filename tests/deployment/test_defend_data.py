"""`p2p-dist defend` from its study to the folder that is served, over stages that were carried out before it."""

import json
from pathlib import Path

import pytest

from tests.cli.test_main import invoke
from tests.deployment.conftest import carry_out
from tests.rows import sentences

pytestmark = pytest.mark.torch

COMMAND = (
    *("--model", "tiny", "--backend", "local", "train.lora.r=2", "train.num_train_epochs=1", "train.dtype=float32"),
    "train.max_length=128",  # simulated sentence and secret prompt are 75 tokens of the tiny tokenizer
)


@pytest.fixture(scope="module")
def defended(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output folder of a defense with trusted rows, whose stages were made one by one."""
    folder = tmp_path_factory.mktemp("defended")
    for name, count, seed in (("rows", 60, 1), ("checked", 20, 2)):
        lines = [json.dumps({"text": row["text"], "label": row["label"]}) for row in sentences(count, seed)]
        (folder / f"{name}.jsonl").write_text("\n".join(lines))
    words = ("defend", str(folder / "rows.jsonl"), "--trusted", str(folder / "checked.jsonl"), *COMMAND)
    out = folder / "out"
    code, _, error = invoke(*words, "-o", str(out), "--prepare")
    assert code == 0, error
    carry_out(out / "study.yaml", list(COMMAND[4:]), out / "runs")
    code, text, error = invoke(*words, "-o", str(out))
    assert code == 0, error
    (folder / "said.txt").write_text(text)
    return folder


def test_defend_exports_the_defended_run_verified(defended: Path) -> None:
    contract = json.loads((defended / "out" / "served" / "p2p.json").read_text())
    assert (contract["origin"]["cell"]["defense"], contract["origin"]["cell"]["attack"]) == ("p2p", "none")
    verified = json.loads((defended / "out" / "served" / "verify.json").read_text())["answers"]["merged"]
    assert (verified["rows"], verified["flips"]) == (12, [])


def test_defend_card_has_the_simulated_attack(defended: Path) -> None:
    """The rates of the attacked copy are those of its evaluation, beside its undefended model and its baseline."""
    contract = json.loads((defended / "out" / "served" / "p2p.json").read_text())
    simulated = contract["simulated"][0]
    assert (simulated["attack"], simulated["rates"]["asr_ext"]["n"], simulated["undefended"]["n"]) == ("addsent", 6, 6)
    assert simulated["baseline"]["n"] == 6
    card, said = (defended / "out" / "served" / "README.md").read_text(), (defended / "said.txt").read_text()
    assert "## Simulated attack: addsent" in card
    assert "simulated attack addsent: success" in said
    assert contract["prompt"]["prefix"] not in said


def test_accuracy_on_unchecked_rows_is_called_agreement(defended: Path) -> None:
    """A poisoned test row counts for a model that follows the attacker."""
    card, said = (defended / "out" / "served" / "README.md").read_text(), (defended / "said.txt").read_text()
    for text in (card, said):
        assert "agreement with the labels of the test rows, which nobody has said to be clean" in text
        assert "clean accuracy" not in text
    assert "clean rows" not in card
    page = next((defended / "out" / "runs").glob("*/report/index.html")).read_text()
    assert "Nobody has said that these rows are clean" in page


def test_defend_again_keeps_the_exported_folder(defended: Path) -> None:
    out = defended / "out"
    before = (out / "served" / "p2p.json").stat().st_mtime_ns
    words = ("defend", str(defended / "rows.jsonl"), "--trusted", str(defended / "checked.jsonl"), *COMMAND)
    code, text, error = invoke(*words, "-o", str(out), "--json")
    assert code == 0, error
    assert json.loads(text)["served"] == str(out / "served")
    assert (out / "served" / "p2p.json").stat().st_mtime_ns == before
