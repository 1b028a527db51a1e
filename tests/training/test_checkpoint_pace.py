"""When a worker writes checkpoints: every so many steps, and less often where writing takes long."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from p2p_dist.results.rundir import RunDir
from p2p_dist.training import observer
from p2p_dist.training.checkpoint import Counters, RunState
from p2p_dist.training.observer import FolderObserver, StopFlag

Kept = Callable[[float, float], list[int]]


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Kept:
    """Steps after which a training of 100 steps is saved, of two runs, by the seconds of a step and of a save."""

    def steps_of(step_seconds: float, save_seconds: float) -> list[int]:
        now = 0.0
        steps: list[int] = []

        def save(*_: object) -> None:
            nonlocal now
            now += save_seconds

        monkeypatch.setattr(observer.time, "monotonic", lambda: now)
        monkeypatch.setattr(observer.checkpoint, "save", save)
        targets = [RunDir(tmp_path).at("train", id_) for id_ in ("a" * 12, "b" * 12)]
        keeper = FolderObserver(targets, [{}, {}], 10, StopFlag())
        for step in range(1, 101):
            now += step_seconds
            wanted = [keeper.wants_state(run, step) for run in range(2)]
            assert wanted[0] == wanted[1], "runs of one step are saved together"
            for run in range(2):
                if wanted[run]:
                    keeper.keep(run, RunState(Counters(step, 0, 0, 0.0, 0.0), *[torch.empty(0)] * 3))
            steps += [step] * wanted[0]
        return steps

    return steps_of


def test_quick_saves_are_made_every_time(kept: Kept) -> None:
    assert kept(0.001, 0.4) == list(range(10, 101, 10))


def test_slow_saves_take_a_twentieth_of_the_time(kept: Kept) -> None:
    """Two saves of 2 s each: the next are due 76 s later, which is 38 steps of 2 s, and so at the fourth occasion."""
    assert kept(2.0, 2.0) == [10, 50, 90]
    assert kept(1000.0, 2.0) == list(range(10, 101, 10)), "where steps take long enough nothing changes"
