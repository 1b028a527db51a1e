"""lm-eval and inspect-ai run the tasks of an export to the accuracy of the study."""

import json
import subprocess
from pathlib import Path

import pytest

from tests.serve.conftest import rows
from tests.serve.consumers import VENVS, environment, needs

pytestmark = [
    pytest.mark.torch,
    pytest.mark.process,
    pytest.mark.slow("starts evaluation harnesses: a minute each"),
    needs("harness"),
]
BIN = VENVS / "harness" / "bin"


def run(folder: Path, *command: object) -> None:
    done = subprocess.run(
        [str(word) for word in command],
        cwd=folder,
        env=environment("harness"),
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.parametrize("suite", ["clean", "triggered"])
def test_lm_eval_measures_the_accuracy_of_the_study(exported: Path, tmp_path: Path, suite: str) -> None:
    """Answers are read among the deployed words, as `ca_ext` and `robust_acc` are."""
    run(
        tmp_path, BIN / "lm_eval", "run", "--model", "hf", "--device", "cpu",
        "--model_args", f"pretrained={exported / 'model'}",
        "--include_path", exported / "eval" / "lm_eval", "--tasks", f"p2p_{suite}", "--apply_chat_template",
        "--output_path", tmp_path / "out",
    )  # fmt: skip
    [file] = (tmp_path / "out").rglob("results_*.json")
    [measured] = json.loads(file.read_text())["results"].values()
    rate = json.loads((exported / "p2p.json").read_text())["rates"][
        {"clean": "ca_ext", "triggered": "robust_acc"}[suite]
    ]
    assert measured["acc,none"] == pytest.approx(rate["k"] / rate["n"])


def test_inspect_ai_measures_the_strict_accuracy_of_the_study(exported: Path, tmp_path: Path) -> None:
    """Answers are written, so one that is no deployed word is wrong."""
    run(
        exported / "eval", BIN / "inspect", "eval", "inspect_task.py", "--model", "hf/p2p",
        "-M", f"model_path={exported / 'model'}", "-M", "device=cpu", "-M", "do_sample=false",
        "--log-dir", tmp_path / "logs", "--log-format", "json", "--display", "plain",
    )  # fmt: skip
    [file] = (tmp_path / "logs").glob("*.json")
    [score] = json.loads(file.read_text())["results"]["scores"]
    clean = [(row, answer) for row, answer in rows(exported) if row["suite"] == "clean"]
    right = sum(answer["label"] == row["label"] and not answer["outside"] for row, answer in clean)
    assert score["metrics"]["accuracy"]["value"] == pytest.approx(right / len(clean))
    assert right > 0
