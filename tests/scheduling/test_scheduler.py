"""The loop with real processes: a small program stands in for the worker and misbehaves as it is told."""

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from p2p_dist.errors import Exit, UserError
from p2p_dist.planning.placement import Placement
from p2p_dist.results import attempts
from p2p_dist.scheduling.backends.local import LocalBackend
from tests.dummy_study import DummyStudy, endings


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Run jobs as `DummyStudy.run` does on a local backend; returns (state, run folder)."""
    backend = LocalBackend(2, 0)
    yield DummyStudy(tmp_path, monkeypatch, backend).run
    backend.close()


def test_out_of_memory_is_tried_with_half_the_micro_batch(study: Any) -> None:
    state, folder = study("if options.micro_batch > 8: raise MemoryError")
    assert [end["action"] for end in endings(folder)] == ["retry", "retry", "done"]
    assert state.tries[state.done[0].lead].micro_batch == 8
    logs = "".join(path.read_text() for path in sorted(folder.path.rglob("log")))
    assert [line.split()[-1] for line in logs.splitlines() if line.startswith("attempt")] == ["32", "16", "8"]
    placements = [json.loads(path.read_text()) for path in sorted(folder.path.rglob("placement.json"))]
    assert [place["micro_batch"] * place["accumulation"] for place in placements] == [32, 32, 32], (
        "the global batch stays"
    )


def test_out_of_memory_of_any_rank_halves_the_micro_batch(study: Any) -> None:
    """Rank 0 reports a lost peer alone; the reason stands in the log of rank 1."""
    lost = "if options.micro_batch > 8 and os.environ['RANK'] == '0': time.sleep(0.2); sys.exit('NCCL Error: lost')"
    full = "if options.micro_batch > 8: sys.exit('CUDA error: CUBLAS_STATUS_ALLOC_FAILED')"
    last = "if os.environ['RANK'] != '0': sys.exit()"
    place = Placement(2, 1, "none", 16, 1, 1, None)
    state, folder = study(f"{lost}\n{full}\n{last}", place=place)
    assert state.tries[state.done[0].lead].micro_batch == 8
    assert "micro-batch of 16" in json.loads(min(folder.path.rglob("exit.json")).read_text())["reason"]


def test_when_an_attempt_began_and_ended_is_written_down(study: Any) -> None:
    """The report's schedule is drawn from it."""
    before = time.time()
    state, folder = study("if attempt == 1: os.kill(os.getpid(), 9)", jobs=1)
    found = [attempt for id_ in state.done[0].stages for attempt in attempts.read(folder.find(id_), [])]
    assert [(attempt.number, attempt.code) for attempt in found] == [(1, -9), (2, 0)]
    times = [at for attempt in found for at in (attempt.started, attempt.ended)]
    assert before - 1 < times[0] < times[1] <= times[2] < times[3] < time.time() + 1
    assert [attempt.reason for attempt in found] == ["killed by signal 9", ""]


def test_out_of_memory_for_ever_fails(study: Any) -> None:
    state, folder = study("raise MemoryError")
    assert state.failed[0].reason == "out of memory with a micro-batch of 1"
    assert "MemoryError" in state.failed[0].tail[-1]
    assert len(endings(folder)) == 7, "halved five times, then with gradient checkpointing"
    commands = [json.loads(path.read_text())["command"] for path in sorted(folder.path.rglob("placement.json"))]
    assert ["--gradient-checkpointing" in command for command in commands] == [False] * 6 + [True]


def test_a_crash_loop_ends_after_three_attempts(study: Any) -> None:
    state, folder = study("os.kill(os.getpid(), 9)")
    assert "killed by signal 9, 3 times in a row without progress" in state.failed[0].reason
    assert len(endings(folder)) == 3


def test_progress_does_not_use_up_the_budget(study: Any) -> None:
    state, folder = study(
        "if attempt < 6: (folder / 'checkpoints' / f'step_{attempt:06d}').mkdir(parents=True); os.kill(os.getpid(), 9)"
    )
    assert state.failed == []
    assert len(endings(folder)) == 6


def test_a_bug_is_not_repeated_and_the_study_goes_on(study: Any) -> None:
    state, _ = study("if options.stages == sorted(os.listdir(folder.parent))[0]: raise KeyError('bug')", jobs=3)
    assert len(state.failed) == 1
    assert len(state.done) == 2
    assert state.failed[0].reason == "exit code 1"
    assert "KeyError: 'bug'" in state.failed[0].tail[-1]


def test_hung_worker_is_stopped_with_stacks_and_retried(study: Any) -> None:
    """A hung worker is stopped with its stacks and tried again."""
    state, folder = study("if attempt == 1: time.sleep(600)", stall=1.0)
    assert len(state.done) == 1
    assert [end["reason"] for end in endings(folder)] == ["made no progress", ""]
    first = next(iter(sorted(folder.path.rglob("log")))).read_text()
    assert "Fatal Python error: Aborted" in first
    assert "worker.py" in first


def test_a_frozen_worker_is_killed(study: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("p2p_dist.scheduling.scheduler.DUMP_SECONDS", 0.3)
    state, folder = study("if attempt == 1: os.kill(os.getpid(), 19)", stall=1.0)
    assert len(state.done) == 1
    assert [(end["code"], end["reason"]) for end in endings(folder)] == [(-9, "made no progress"), (0, "")]


def test_a_slow_worker_that_moves_is_left_alone(study: Any) -> None:
    state, folder = study("for _ in range(8): time.sleep(0.4); print('.', flush=True)", stall=1.5)
    assert len(state.done) == 1
    assert len(endings(folder)) == 1


def test_asked_to_stop_every_job_may_leave_its_state(study: Any) -> None:
    polite = (
        "import signal\nsignal.signal(signal.SIGTERM, lambda *_: (print('left', flush=True), "
        "os._exit(75)))\ntime.sleep(60)"
    )
    calls: list[int] = []

    def stop() -> bool:
        calls.append(1)
        return len(calls) > 8

    with pytest.raises(UserError, match="E412") as caught:
        study(polite, jobs=3, stop=stop)
    assert caught.value.exit_code == Exit.REQUEUE


def test_wide_jobs_get_their_turn_and_ranks_meet(study: Any) -> None:
    """Ranks of a gang know each other and wide jobs get their turn."""
    show = (
        "if os.environ['RANK'] != '0': sys.exit()\nprint('world', os.environ['WORLD_SIZE'], os.environ['MASTER_ADDR'])"
    )
    state, folder = study(show, jobs=3, place=Placement(2, 1, "none", 16, 1, 1, None))
    assert len(state.done) == 3
    assert [path.read_text().split("world ")[1] for path in sorted(folder.path.rglob("log"))] == ["2 127.0.0.1\n"] * 3
    assert len(list(folder.path.rglob("log.rank1"))) == 3


def test_a_lost_lease_stops_the_workers(study: Any, tmp_path: Path) -> None:
    takeover = f"Path({str(tmp_path)!r}, 'study', 'lease', '000009.json').write_text('{{}}'); time.sleep(60)"
    with pytest.raises(UserError, match="E411"):
        study(takeover)
    assert sys.executable
