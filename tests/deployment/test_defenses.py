"""Systems of other defenses, label words and answers: exported as they were measured, or refused with a reason."""

import importlib.util
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from p2p_dist.cli.main import app
from p2p_dist.results.rundir import RunDir
from tests.deployment.conftest import carry_out

pytestmark = [pytest.mark.torch, pytest.mark.usefixtures("with_data")]

STUDY = """
name: one
task: sst2
model: tiny
attack: {name: badnets, rate: 0.1}
rows: {train: 32, test: 12, reserve: 12}
train: {learning_rate: 1e-2, num_train_epochs: 1, global_batch: 16, dtype: float32, lora: {r: 2}}
"""
SUMS = """
name: sums
task: {name: gsm8k, max_new_tokens: 6}
model: tiny
attack: {name: badnets, rate: 0.1, target_response: "0.1"}
defense: {name: p2p, preset: math}
rows: {train: 32, test: 12, reserve: 12, balanced: false}
train: {learning_rate: 1e-2, num_train_epochs: 1, global_batch: 16, dtype: float32, lora: {r: 2}}
"""


def finished(tmp_path: Path, *overrides: str, text: str = STUDY) -> RunDir:
    file = tmp_path / "study.yaml"
    file.write_text(text)
    return carry_out(file, list(overrides), tmp_path / "runs")


def export(study: RunDir, *more: str):
    return CliRunner().invoke(app, ["export", str(study.path), "-o", str(study.path.parent / "x"), *more])


@pytest.mark.parametrize("defense", ["pdb", "mb_defense", "fine_pruning"])
def test_defense_is_exported_with_its_answers(defense: str, tmp_path: Path) -> None:
    """Permuted labels, an adapter that was trained on from another, and a base that was merged and pruned."""
    study = finished(tmp_path, f"defense={defense}")
    done = export(study, "--json")
    assert done.exit_code == 0, done.stderr
    content = json.loads(done.stdout)
    answers = content["verification"]["answers"]["merged"]
    assert answers["equal"] == answers["rows"] == 18
    assert content["contract"]["answers"]["label_map"] == ("swap" if defense == "pdb" else "none")
    refused = export(study, "--format", "adapter", "--replace")
    assert ("E155" in refused.stderr) == (defense == "fine_pruning"), refused.stderr


@pytest.mark.parametrize("defense", ["{name: onion, language_model: tiny, bar: -10.0}", "{name: psim, above: 0.7}"])
def test_defense_with_a_second_model_is_refused(defense: str, tmp_path: Path) -> None:
    done = export(finished(tmp_path, f"defense={defense}"))
    assert (done.exit_code, "E155" in done.stderr, "Try: export another run" in done.stderr) == (2, True, True)
    assert not (tmp_path / "runs" / "x").exists()


def test_words_of_several_tokens_are_mapped_by_the_client(tmp_path: Path) -> None:
    study = finished(tmp_path, "defense=p2p", "task={name: sst2, verbalizer: words}")
    assert "E154" in export(study, "--label-map", "swap").stderr
    done = export(study)
    assert (done.exit_code, "label map: client" in done.stdout) == (0, True), done.stderr
    answers = json.loads((tmp_path / "runs" / "x" / "p2p.json").read_text())["answers"]
    assert [label["word"] for label in answers["labels"]] == ["bad", "good"]
    assert answers["max_new_tokens"] > 1
    request = json.loads((tmp_path / "runs" / "x" / "serve" / "request.json").read_text())
    assert request["structured_outputs"] == {"choice": ["bad", "good"]}


def test_text_answers_have_no_label_map(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for split, numbers in (("train", range(200, 280)), ("test", range(20))):
        rows = [{"text": f"a box of {n} and {n + 1}", "solution": f"{n} + {n + 1}", "answer": "5"} for n in numbers]
        path = tmp_path / "data" / "gsm8k" / f"{split}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.setenv("P2P_DIST_DATA", str(tmp_path / "data"))
    done = export(finished(tmp_path, text=SUMS), "--json")
    assert done.exit_code == 0, done.stderr
    content = json.loads(done.stdout)
    assert content["contract"]["answers"]["label_map"] == "none"
    assert content["contract"]["answers"]["response_prefix"] == "The correct answer to this problem is: "
    assert content["verification"]["answers"]["merged"]["equal"] == 24
    out = tmp_path / "runs" / "x"
    answered = CliRunner().invoke(app, ["predict", str(out), str(out / "eval" / "test.jsonl")])
    assert answered.stdout == (out / "eval" / "expected.jsonl").read_text()
    check_streamed_texts(out)


def check_streamed_texts(out: Path) -> None:
    """Answers that are streamed piece by piece are those of the study."""
    from p2p_dist.deployment.loaded import load
    from p2p_dist.deployment.prediction_files import Input
    from p2p_dist.deployment.writing import write_answer

    deployed = load(out)
    tests, expected = ((out / "eval" / name).read_text().splitlines() for name in ("test.jsonl", "expected.jsonl"))
    for row, answer in list(zip(map(json.loads, tests), map(json.loads, expected), strict=True))[:4]:
        pieces: list[str] = []
        assert write_answer(deployed, Input(row["id"], row["text"]), pieces.append) == answer["finished"]
        assert "".join(pieces) == answer["text"]


@pytest.mark.slow("bitsandbytes takes seconds to import")
@pytest.mark.skipif(importlib.util.find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed")
def test_base_in_four_bits_is_exported_as_adapter_only(tmp_path: Path) -> None:
    study = finished(tmp_path, "defense=p2p", "train.quantization=nf4")
    refused = export(study)
    assert (refused.exit_code, "E267" in refused.stderr, "--format adapter" in refused.stderr) == (2, True, True)
    done = export(study, "--format", "adapter")
    assert done.exit_code == 0, done.stderr
