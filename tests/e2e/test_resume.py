"""Killed or asked to stop in the middle of a training, a run ends with the same bytes as one left alone."""

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest

from p2p_dist.errors import Exit
from tests import in_process
from tests.outcomes import assert_same, results
from tests.studies import LONG_OPTIONS as OPTIONS
from tests.studies import FinishedStudy, cli, command, exits, logs, trained_steps, wait_for, workers_of

pytestmark = pytest.mark.usefixtures("with_data")
BITS = ("train.quantization=nf4", "train.optimizer=adamw_8bit")
EPOCHS = "train.num_train_epochs=8"
"""32 steps: enough where nobody has to meet the middle of a training from outside."""


def assert_resumed(runs: Path, steps: int) -> None:
    """Costs and metrics are those of a run left alone."""
    assert "resuming" in logs(runs)
    (cost,) = [json.loads(path.read_text()) for path in runs.rglob("train/*/cost.json")]
    lines = [json.loads(line) for path in runs.rglob("train/*/metrics.jsonl") for line in path.read_text().splitlines()]
    assert cost["seconds"] >= lines[-1]["seconds"], "what was trained before the resume is paid for, too"
    assert [line["step"] for line in lines] == list(range(1, steps + 1)), "one line for every step, none twice"


def run_disturbed(study: Path, runs: Path, sent: signal.Signals, *options: str) -> None:
    """Run the study in processes, and send the signal to its worker in the middle of the training."""
    controller = subprocess.Popen(
        command(study, runs, *OPTIONS, *options), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    wait_for(lambda: trained_steps(runs) > 45)
    for pid in workers_of(runs):
        os.kill(pid, sent)
    _, errors = controller.communicate(timeout=480)
    assert controller.returncode == Exit.OK, errors


@pytest.fixture(scope="module")
def short(undisturbed: FinishedStudy, tmp_path_factory: pytest.TempPathFactory, data_root: Path) -> dict[str, bytes]:
    """Results of the same training of 32 steps."""
    runs = tmp_path_factory.mktemp("short")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("P2P_DIST_DATA", str(data_root))
        assert in_process.cli(undisturbed.file, runs, *OPTIONS, EPOCHS).returncode == Exit.OK
    return results(runs)


SIGNALS = [(signal.SIGKILL, -9), (signal.SIGTERM, 75), (signal.SIGUSR1, 75)]
TO_ALL = pytest.mark.slow("starts a study; the kill is the fast witness of processes, the signal that of one process")


@pytest.mark.parametrize(
    ("sent", "code"),
    [SIGNALS[0], *(pytest.param(*pair, marks=TO_ALL) for pair in SIGNALS[1:])],
    ids=["kill", "term", "usr1"],
)
def test_a_worker_that_ends_early_is_resumed(
    undisturbed: FinishedStudy, tmp_path: Path, sent: signal.Signals, code: int
) -> None:
    """Controller and workers are processes."""
    run_disturbed(undisturbed.file, tmp_path, sent)
    assert code in exits(tmp_path, "code")
    assert_resumed(tmp_path, 240)
    assert_same(tmp_path, results(undisturbed.runs))


@pytest.mark.parametrize(("sent", "code"), SIGNALS[1:], ids=["term", "usr1"])
def test_a_job_asked_to_stop_is_resumed(
    undisturbed: FinishedStudy, short: dict[str, bytes], tmp_path: Path, sent: signal.Signals, code: int
) -> None:
    """The signal reaches the process that trains, and the scheduler starts the job again."""
    with in_process.at_step(13, lambda folder: os.kill(os.getpid(), sent)):
        done = in_process.cli(undisturbed.file, tmp_path, *OPTIONS, EPOCHS)
    assert done.returncode == Exit.OK, done.stderr
    assert sorted(exits(tmp_path, "code")) == [0, 0, code], "rows, the run, and the attempt at it that was stopped"
    assert_resumed(tmp_path, 32)
    assert_same(tmp_path, short)


def test_nf4_base_with_8bit_adam_resumes_to_the_bit(
    undisturbed: FinishedStudy, short: dict[str, bytes], tmp_path: Path
) -> None:
    """A base in four bits and moments in eight are resumed to the bit, from the checkpoint before an end at any
    step."""
    bits = (*OPTIONS, EPOCHS, *BITS)
    assert in_process.cli(undisturbed.file, tmp_path / "alone", *bits).returncode == Exit.OK
    with in_process.at_step(25, in_process.kill):
        done = in_process.cli(undisturbed.file, tmp_path / "killed", *bits)
    assert done.returncode == Exit.OK, done.stderr
    assert -signal.SIGKILL in exits(tmp_path / "killed", "code")
    assert_resumed(tmp_path / "killed", 32)
    expected = results(tmp_path / "alone")
    assert expected != short
    assert_same(tmp_path / "killed", expected)


@pytest.mark.slow("two studies with bitsandbytes; the same in one process is the fast witness")
def test_killed_nf4_worker_with_8bit_adam_resumes(undisturbed: FinishedStudy, tmp_path: Path) -> None:
    """The same with processes and a real kill."""
    assert cli(undisturbed.file, tmp_path / "alone", *OPTIONS, *BITS).returncode == Exit.OK
    run_disturbed(undisturbed.file, tmp_path / "killed", signal.SIGKILL, *BITS)
    expected = results(tmp_path / "alone")
    assert expected != results(undisturbed.runs)
    assert_same(tmp_path / "killed", expected)


def test_a_damaged_checkpoint_does_not_spoil_a_run(
    undisturbed: FinishedStudy, short: dict[str, bytes], tmp_path: Path
) -> None:
    """The one before it is resumed, and the log names what was wrong."""
    damaged: list[str] = []

    def damage(folder: Path) -> None:
        _, newest = sorted(folder.rglob("step_*"))
        os.truncate(newest / "state.safetensors", 100)
        damaged.append(newest.name)
        in_process.kill(folder)

    with in_process.at_step(13, damage):
        done = in_process.cli(undisturbed.file, tmp_path, *OPTIONS, EPOCHS, "--checkpoint-every", "5")
    assert done.returncode == Exit.OK, done.stderr
    assert damaged == ["step_000010"]
    assert f"{damaged[0]}: state.safetensors has 100 bytes" in logs(tmp_path)
    assert "after step 5" in logs(tmp_path)
    assert_resumed(tmp_path, 32)
    assert_same(tmp_path, short)


def test_adapter_with_a_flipped_bit_is_not_evaluated(undisturbed: FinishedStudy, tmp_path: Path) -> None:
    """One bit of a finished adapter once turned an attack success of 100 % into a valid result of 0 %."""
    runs = undisturbed.copy_runs(tmp_path)
    (weights,) = runs.rglob("adapter_model.safetensors")
    content = bytearray(weights.read_bytes())
    content[len(content) // 2] ^= 0x40
    weights.write_bytes(content)
    for result in runs.rglob("result.json"):
        result.unlink()
    done = in_process.cli(undisturbed.file, runs, *OPTIONS)
    assert done.returncode == Exit.SOME_FAILED, done.stderr
    assert "error[E519]: adapter/adapter_model.safetensors is not what the stage wrote" in done.stderr
    assert not list(runs.rglob("result.json"))
