"""Resume to the bit, and refuse what is damaged."""

import hashlib
import json
import os
import random
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from p2p_dist.modeling.base import load_base
from p2p_dist.modeling.lora import Adapters
from p2p_dist.training import checkpoint
from p2p_dist.training.checkpoint import Counters, RunState
from p2p_dist.training.cohort import Observer, Stopped, train_cohort
from p2p_dist.training.train_run import Trained, TrainRun
from tests.training.test_cohort import IDENTITY, RUNS, rows, spec

MARK = {"stage": "0123456789ab"}


class Keeper(Observer):
    """Keeps every state in memory, and stops after so many steps."""

    def __init__(self, stop_after: int = 10**6):
        self.states: dict[tuple[int, int], RunState] = {}
        self.left = stop_after

    def wants_state(self, run: int, step: int) -> bool:
        return True

    def keep(self, run: int, state: RunState) -> None:
        copies = (state.values.clone(), state.first_moment.clone(), state.second_moment.clone())
        self.states[run, state.counters.step] = RunState(state.counters, *copies)

    def stop_requested(self) -> bool:
        self.left -= 1
        return self.left <= 0


def train(runs: list[TrainRun], observer: Observer) -> list[Trained]:
    base = load_base(IDENTITY, {}, "float32")
    return train_cohort(base, Adapters(base.model, runs[0].spec.lora, len(runs)), runs, observer)


def test_resumed_at_any_step_gives_the_same_bits() -> None:
    """Mid-epoch and at an epoch's end, with a smaller last batch, dropout, clipping and warm-up."""
    run = TrainRun(spec(warmup_steps=2, max_grad_norm=0.1), 3, rows(37, 5))
    keeper = Keeper()
    (whole,) = train([run], keeper)
    assert len(keeper.states) == run.schedule.steps - 1
    for (_, _step), state in keeper.states.items():
        (resumed,) = train([replace(run, resume=state)], Observer())
        assert torch.equal(resumed.values, whole.values)
        assert (resumed.loss, resumed.tokens) == (whole.loss, whole.tokens)


def test_runs_of_a_cohort_resume_from_different_steps() -> None:
    keeper = Keeper()
    whole = train(RUNS, keeper)
    resumed = train(
        [
            replace(run, resume=keeper.states[k, step])
            for k, (run, step) in enumerate(zip(RUNS, (3, 7, 5), strict=True))
        ],
        Observer(),
    )
    for one, other in zip(whole, resumed, strict=True):
        torch.testing.assert_close(one.values, other.values, atol=1e-5, rtol=0)
        assert one.tokens == other.tokens


def test_stop_hands_over_the_state_of_every_run() -> None:
    keeper = Keeper(stop_after=4)
    with pytest.raises(Stopped):
        train(RUNS, keeper)
    assert {(run, 4) for run in range(3)} <= set(keeper.states)


def state(step: int) -> RunState:
    tensors = (torch.arange(50) / 7 + step, torch.ones(50), torch.zeros(50))
    return RunState(Counters(step, 8 * step, 99 * step, 1.5, 0.25), *tensors)


def saved(folder: Path, *steps: int) -> Path:
    for step in steps:
        checkpoint.save(folder, state(step), MARK)
    return folder


def test_round_trip_and_the_newest_two_are_kept(tmp_path: Path) -> None:
    found = checkpoint.newest(saved(tmp_path, 10, 20, 30), MARK)
    assert found.state is not None
    assert found.state.counters == state(30).counters
    assert torch.equal(found.state.values, state(30).values)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step_000020", "step_000030"]
    assert checkpoint.newest(tmp_path / "nothing", MARK) == checkpoint.Found(None, [])


def test_what_was_read_does_not_change_with_the_file(tmp_path: Path) -> None:
    found = checkpoint.newest(saved(tmp_path, 10), MARK).state
    file = tmp_path / "step_000010" / "state.safetensors"
    with file.open("r+b") as handle:
        handle.write(bytes(file.stat().st_size))
    assert found is not None
    assert torch.equal(found.values, state(10).values)


def test_saving_a_step_again_changes_nothing(tmp_path: Path) -> None:
    saved(tmp_path, 10)
    before = (tmp_path / "step_000010" / "MANIFEST.json").stat().st_mtime_ns
    checkpoint.save(tmp_path, replace(state(10), values=torch.zeros(50)), MARK)
    assert (tmp_path / "step_000010" / "MANIFEST.json").stat().st_mtime_ns == before


def test_every_flipped_bit_is_found(tmp_path: Path) -> None:
    saved(tmp_path, 10)
    draw = random.Random(0)
    files = sorted((tmp_path / "step_000010").iterdir())
    for _ in range(300):
        file = draw.choice(files)
        content = bytearray(file.read_bytes())
        content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
        whole = file.read_bytes()
        file.write_bytes(content)
        found = checkpoint.newest(tmp_path, MARK)
        # A flip in the manifest's white space leaves the same manifest: the state is then the one that was saved.
        assert found.state is None or (
            file.name == "MANIFEST.json" and torch.equal(found.state.values, state(10).values)
        )
        file.write_bytes(whole)
    assert checkpoint.newest(tmp_path, MARK).state is not None


@pytest.mark.parametrize("name", ["state.safetensors", "state.json", "MANIFEST.json"])
@pytest.mark.parametrize("damage", ["missing", "cut", "empty"])
def test_damaged_checkpoint_is_named_and_the_previous_taken(tmp_path: Path, name: str, damage: str) -> None:
    """A damaged checkpoint is named and the one before is taken."""
    saved(tmp_path, 10, 20)
    file = tmp_path / "step_000020" / name
    if damage == "missing":
        file.unlink()
    else:
        os.truncate(file, 0 if damage == "empty" else file.stat().st_size // 2)
    found = checkpoint.newest(tmp_path, MARK)
    assert found.state is not None
    assert found.state.counters.step == 10
    assert len(found.skipped) == 1
    assert found.skipped[0].startswith("step_000020: ")


def test_another_run_is_refused_with_the_difference(tmp_path: Path) -> None:
    found = checkpoint.newest(saved(tmp_path, 10), {**MARK, "torch": "9"})
    assert found.state is None
    assert found.skipped == [
        (
            "step_000010: made under other circumstances (torch was None, is 9). To resume from it, add --allow-change "
            "torch"
        )
    ]


def test_a_change_that_is_allowed_by_name_is_recorded(tmp_path: Path) -> None:
    saved(tmp_path, 10)
    found = checkpoint.newest(tmp_path, {**MARK, "torch": "9", "device": "cuda"}, ["torch", "device"])
    assert found.state is not None
    assert found.changes == {"device": [None, "cuda"], "torch": [None, "9"]}
    assert checkpoint.newest(tmp_path, {**MARK, "torch": "9", "device": "cuda"}, ["torch"]).state is None


def test_half_written_folders_and_strangers_are_ignored(tmp_path: Path) -> None:
    saved(tmp_path, 10)
    (tmp_path / ".tmp-1-step_000020").mkdir()
    (tmp_path / "step_x").mkdir()
    (tmp_path / "step_000030").mkdir()
    found = checkpoint.newest(tmp_path, MARK)
    assert found.state is not None
    assert found.skipped == ["step_000030: MANIFEST.json is missing"]
    assert json.loads((tmp_path / "step_000010" / "state.json").read_text())["step"] == 10


@pytest.mark.parametrize("damage", ["manifest folder", "manifest fifo", "deep manifest", "list", "file", "no counters"])
def test_older_checkpoint_is_used_whatever_the_newest_is(tmp_path: Path, damage: str) -> None:
    saved(tmp_path, 10, 20)
    newest, manifest = tmp_path / "step_000020", tmp_path / "step_000020" / "MANIFEST.json"
    if damage == "file":
        shutil.rmtree(newest)
        newest.write_text("x")
    elif damage == "no counters":
        content = b"[1]\n"
        (newest / "state.json").write_bytes(content)
        entry = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        record = json.loads(manifest.read_text())
        manifest.write_text(json.dumps({**record, "files": {**record["files"], "state.json": entry}}))
    else:
        manifest.unlink()
        if damage == "manifest folder":
            manifest.mkdir()
        elif damage == "manifest fifo":
            os.mkfifo(manifest)
        else:
            manifest.write_bytes(b"[" * 100_000 if damage == "deep manifest" else b"[]")
    found = checkpoint.newest(tmp_path, MARK)
    assert found.state is not None
    assert found.state.counters.step == 10
    assert len(found.skipped) == 1
    assert found.skipped[0].startswith("step_000020: ")


def test_resume_under_other_threads_is_marked() -> None:
    """Sums of several threads have another order, so the bits of the run are marked as those of two layouts."""
    run, keeper, threads = TrainRun(spec(), 3, rows(37, 5)), Keeper(stop_after=2), torch.get_num_threads()
    with pytest.raises(Stopped):
        train([run], keeper)
    resumed = replace(run, resume=keeper.states[0, 2], stop_after_steps=3)
    (same,) = train([resumed], Observer())
    try:
        torch.set_num_threads(threads + 1)
        (other,) = train([resumed], Observer())
    finally:
        torch.set_num_threads(threads)
    assert len(same.topologies) == 1
    assert [name.split(", ")[-1].split()[0] for name in other.topologies] == [str(threads), str(threads + 1)]
