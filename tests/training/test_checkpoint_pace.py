"""When a worker writes checkpoints: every so many steps, and less often where writing takes long."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from p2p_dist.results.rundir import RunDir
from p2p_dist.training import observer
from p2p_dist.training.checkpoint import Counters, RunState
from p2p_dist.training.observer import FolderObserver, StopFlag

Kept = Callable[..., list[list[int]]]


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Kept:
    """Steps after which each of two trainings of 100 steps is saved, by the seconds of a step of both and of a save;
    the second goes on from step `behind` when the first does from `ahead`."""

    def steps_of(step_seconds: float, save_seconds: float, ahead: int = 0, behind: int = 0) -> list[list[int]]:
        now = 0.0
        steps: list[list[int]] = [[], []]

        def save(*_: object) -> None:
            nonlocal now
            now += save_seconds

        monkeypatch.setattr(observer.time, "monotonic", lambda: now)
        monkeypatch.setattr(observer.checkpoint, "save", save)
        targets = [RunDir(tmp_path).at("train", id_) for id_ in ("a" * 12, "b" * 12)]
        keeper = FolderObserver(targets, [{}, {}], 10, StopFlag())
        for round_ in range(1, 101):
            now += step_seconds
            for run, step in enumerate((ahead + round_, behind + round_)):
                if step <= 100:
                    keeper.line(run, {"step": step, "steps": 100})
                if step < 100 and keeper.wants_state(run, step):
                    keeper.keep(run, RunState(Counters(step, 0, 0, 0.0, 0.0), *[torch.empty(0)] * 3))
                    steps[run].append(step)
        return steps

    return steps_of


def test_quick_saves_are_made_every_time(kept: Kept) -> None:
    assert kept(0.001, 0.4) == [list(range(10, 100, 10))] * 2


def test_slow_saves_take_a_twentieth_of_the_time(kept: Kept) -> None:
    """Two saves of 2 s each: the next are due 76 s later, which is 38 steps of 2 s, and so at the fourth occasion."""
    assert kept(2.0, 2.0) == [[10, 50, 90]] * 2
    assert kept(1000.0, 2.0) == [list(range(10, 100, 10))] * 2, "where steps take long enough nothing changes"


def test_runs_at_different_steps_are_all_saved(kept: Kept) -> None:
    """After a kill between the saves of two runs, and at steps that never meet; the last one may save more often."""
    assert kept(2.0, 2.0, ahead=20, behind=10) == [[30, 70], [20, 60, 90]]
    assert kept(2.0, 2.0, ahead=65, behind=0) == [[70], [10, 40, 60, 80]]
