"""Killed or asked to stop in the middle of a training, a run ends with the same bytes as one left alone."""

import json
import os
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from p2p_dist.errors import Exit
from tests.conftest import TINY_STUDY
from tests.e2e.test_study import _processes_naming, _wait_for, cli, command
from tests.outcomes import assert_same, results

pytestmark = pytest.mark.usefixtures("with_data")
LONG = TINY_STUDY.replace("num_train_epochs: 1", "num_train_epochs: 60").replace("name: tiny", "name: long")
OPTIONS = ("attack=none", "defense=none", "--backend", "local", "--checkpoint-every", "20")
BITS = ("train.quantization=nf4", "train.optimizer=adamw_8bit")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, data_root: Path) -> tuple[Path, dict[str, bytes]]:
    """(study file, results of an undisturbed run of 240 steps)."""
    folder = tmp_path_factory.mktemp("whole")
    (folder / "study.yaml").write_text(LONG)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("P2P_DIST_DATA", str(data_root))
        done = cli(folder / "study.yaml", folder / "runs", *OPTIONS)
    assert done.returncode == Exit.OK, done.stderr
    assert not list(folder.rglob("checkpoints"))
    return folder / "study.yaml", results(folder / "runs")


def steps(runs: Path) -> int:
    lines = [line for path in runs.rglob("train/*/metrics.jsonl") for line in path.read_text().splitlines()]
    return json.loads(lines[-1])["step"] if lines else 0


def logs(runs: Path) -> str:
    return "".join(path.read_text() for path in sorted(runs.rglob("log")))


def disturb(study: Path, tmp_path: Path, sent: signal.Signals, *more: str) -> None:
    """Run the study, and send the signal to its worker in the middle of the training."""
    controller = subprocess.Popen(
        command(study, tmp_path, *OPTIONS, *more), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    _wait_for(lambda: steps(tmp_path) > 45, 120)
    for pid, line in _processes_naming(str(tmp_path)).items():
        if "p2p_dist.worker" in line:
            os.kill(pid, sent)
    _, said = controller.communicate(timeout=240)
    assert controller.returncode == Exit.OK, said
    assert "resuming" in logs(tmp_path)


@pytest.mark.parametrize(
    ("sent", "code"), [(signal.SIGKILL, -9), (signal.SIGTERM, 75), (signal.SIGUSR1, 75)], ids=["kill", "term", "usr1"]
)
def test_a_worker_that_ends_early_is_resumed(whole: Any, tmp_path: Path, sent: signal.Signals, code: int) -> None:
    study, expected = whole
    disturb(study, tmp_path, sent)
    assert code in {json.loads(path.read_text())["code"] for path in tmp_path.rglob("exit.json")}
    assert_same(tmp_path, expected)
    (cost,) = [json.loads(path.read_text()) for path in tmp_path.rglob("train/*/cost.json")]
    (last,) = [json.loads(path.read_text().splitlines()[-1]) for path in tmp_path.rglob("train/*/metrics.jsonl")]
    assert cost["seconds"] >= last["seconds"], "what was trained before the resume is paid for, too"
    numbers = [
        json.loads(line)["step"]
        for path in tmp_path.rglob("train/*/metrics.jsonl")
        for line in path.read_text().splitlines()
    ]
    assert numbers == list(range(1, 241)), "one line for every step, none twice"


def test_nf4_base_with_8bit_adam_resumes_to_the_bit(whole: Any, tmp_path: Path) -> None:
    """A base in four bits and moments in eight are resumed to the bit."""
    study, full_precision = whole
    assert cli(study, tmp_path / "alone", *OPTIONS, *BITS).returncode == Exit.OK
    disturb(study, tmp_path / "killed", signal.SIGKILL, *BITS)
    expected = results(tmp_path / "alone")
    assert expected != full_precision
    assert_same(tmp_path / "killed", expected)


def test_a_damaged_checkpoint_does_not_spoil_a_run(whole: Any, tmp_path: Path) -> None:
    study, expected = whole
    controller = subprocess.Popen(
        command(study, tmp_path, *OPTIONS), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    _wait_for(lambda: steps(tmp_path) > 65, 120)
    controller.kill()
    controller.wait()
    _wait_for(lambda: not _processes_naming(str(tmp_path)), 30)
    newest = sorted(tmp_path.rglob("step_*"))[-1]
    os.truncate(newest / "state.safetensors", 100)
    done = cli(study, tmp_path, *OPTIONS)
    assert done.returncode == Exit.OK, done.stderr
    assert f"{newest.name}: state.safetensors has 100 bytes" in logs(tmp_path)
    assert_same(tmp_path, expected)


def test_adapter_with_a_flipped_bit_is_not_evaluated(whole: Any, tmp_path: Path) -> None:
    """One bit of a finished adapter once turned an attack success of 100 % into a valid result of 0 %."""
    study, _ = whole
    runs = Path(shutil.copytree(study.parent / "runs", tmp_path / "runs"))
    (weights,) = runs.rglob("adapter_model.safetensors")
    content = bytearray(weights.read_bytes())
    content[len(content) // 2] ^= 0x40
    weights.write_bytes(content)
    for result in runs.rglob("result.json"):
        result.unlink()
    done = cli(study, runs, *OPTIONS)
    assert done.returncode == Exit.SOME_FAILED, done.stderr
    assert "error[E519]: adapter/adapter_model.safetensors is not what the stage wrote" in done.stderr
    assert not list(runs.rglob("result.json"))
