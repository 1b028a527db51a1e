"""Two controllers on one machine never give one GPU to two jobs; a job whose GPUs are held waits."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from p2p_dist.errors import UserError
from p2p_dist.planning.gpus import Gpu
from p2p_dist.scheduling import gpu_locks
from p2p_dist.scheduling.backend import ProcessGroup, Service
from p2p_dist.scheduling.backends import local
from p2p_dist.scheduling.backends.local import LocalBackend
from p2p_dist.scheduling.gpu_locks import GpuLocks
from tests.dummy_study import DummyStudy, endings

UNTIL = "import os, sys, time\nprint(os.environ['CUDA_VISIBLE_DEVICES'], flush=True)\nwhile not os.path.exists({!r}): "
SERVE = "from p2p_dist.worker.job_loop import serve; import sys; sys.exit(serve(lambda arguments: 0, lambda: True))"
HOLD = """
import sys, time
from pathlib import Path
from p2p_dist.scheduling import gpu_locks
gpu_locks.FOLDER = Path(sys.argv[1])
print(gpu_locks.GpuLocks({}).take(["0", "1"], 1), flush=True)
time.sleep(60)
"""


class Started(NamedTuple):
    """A group, and how to let it end."""

    backend: LocalBackend
    name: str
    log: Path
    end: Path

    def devices(self) -> list[str]:
        """Its devices; none while it is pending."""
        assert self.backend.poll(self.name) is None
        lines = [line for line in self.log.read_text().splitlines() if not line.startswith("waiting")]
        return lines[0].split(",") if lines else []

    def is_pending(self) -> bool:
        """True while it waits for GPUs of others."""
        return not self.devices() and "waiting for" in self.log.read_text()

    def begun(self) -> list[str]:
        """Its devices, once it has begun."""
        wait_for(lambda: bool(self.devices()))
        return self.devices()

    def finish(self) -> None:
        """Let it end, and have its backend notice."""
        self.end.touch()
        wait_for(lambda: self.backend.poll(self.name) == 0)


Start = Callable[..., Started]


def wait_for(done: Callable[[], bool], seconds: float = 20) -> None:
    """Wait until something is true."""
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.fixture(autouse=True)
def locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of locks of a machine with GPUs 0 and 1."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    monkeypatch.setattr(gpu_locks, "FOLDER", tmp_path / "locks")
    monkeypatch.setattr(local, "RETRY_SECONDS", 0.02)
    return tmp_path / "locks"


@pytest.fixture
def controllers() -> Iterator[tuple[LocalBackend, LocalBackend]]:
    with contextlib.closing(LocalBackend(2, 2)) as first, contextlib.closing(LocalBackend(2, 2)) as second:
        yield first, second


@pytest.fixture
def start(tmp_path: Path) -> Start:
    """Start a group that prints its devices and ends when it is let."""
    count = iter(range(99))

    def begin(backend: LocalBackend, ranks: int = 1) -> Started:
        number = next(count)
        log, end = tmp_path / f"log{number}", tmp_path / f"end{number}"
        code = UNTIL.format(str(end)) + "time.sleep(0.02)"
        name = backend.start(ProcessGroup((sys.executable, "-c", code), log, 1, 1, ranks=ranks))
        return Started(backend, name, log, end)

    return begin


def test_a_gpu_that_another_controller_holds_is_skipped(
    controllers: tuple[LocalBackend, LocalBackend], start: Start
) -> None:
    """The third group waits, as its log says, and has the GPU of the first that ends."""
    one, two = controllers
    first, second = start(one), start(two)
    assert (first.begun(), second.begun()) == (["0"], ["1"])
    third = start(two)
    assert third.is_pending()
    assert not two.has_started(third.name)
    first.finish()
    assert third.begun() == ["0"]
    second.finish()
    third.finish()
    assert list(two.quarantine(third.name)) == []


def test_a_group_takes_all_its_gpus_or_none(controllers: tuple[LocalBackend, LocalBackend], start: Start) -> None:
    """One that waits for two holds none, so that two of them never wait for each other."""
    one, two = controllers
    first = start(one)
    first.begun()
    pair = start(two, 2)
    assert pair.is_pending()
    alone = start(one)
    assert alone.begun() == ["1"]
    first.finish()
    alone.finish()
    assert pair.begun() == ["0", "1"]


def test_a_waiting_group_can_be_stopped(controllers: tuple[LocalBackend, LocalBackend], start: Start) -> None:
    one, two = controllers
    start(one, 2).begun()
    stopped, signalled = start(two), start(two)
    two.stop(stopped.name)
    two.send_signal(signalled.name, signal.SIGINT)
    assert [two.poll(each.name) for each in (stopped, signalled)] == [-signal.SIGTERM, -signal.SIGINT]


def test_close_gives_all_gpus_back(start: Start) -> None:
    with contextlib.closing(LocalBackend(2, 2)) as one:
        start(one, 2).begun()
        start(one)
    with contextlib.closing(LocalBackend(2, 2)) as two:
        assert start(two, 2).begun() == ["0", "1"]


def test_an_idle_worker_leaves_its_gpu(start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a controller that waits for another one's job would keep the GPU that this job waits for."""
    monkeypatch.setattr(local, "IDLE_SECONDS", 0.1)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    with contextlib.closing(LocalBackend(1, 1)) as one, contextlib.closing(LocalBackend(1, 1)) as two:
        service = Service((sys.executable, "-c", SERVE), (), {})
        done = one.start(ProcessGroup(("false",), tmp_path / "warm", 1, 1, service=service))
        wait_for(lambda: one.poll(done) == 0)
        waiting = start(two)
        assert waiting.is_pending()
        wait_for(lambda: one.wait([], 0.02) is None and bool(waiting.devices()))


def test_a_study_waits_for_gpus_of_another_and_ends(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One attempt for each job, though both GPUs are held for longer than a job may stall."""
    with contextlib.closing(LocalBackend(2, 2)) as other, contextlib.closing(LocalBackend(2, 2)) as mine:
        held, begun = start(other, 2), time.monotonic()
        held.begun()

        def release() -> bool:
            if time.monotonic() - begun > 2 and not held.end.exists():
                held.finish()
            return False

        state, folder = DummyStudy(tmp_path, monkeypatch, mine).run("pass", jobs=2, stall=1, stop=release)
    assert (len(state.done), state.failed) == (2, [])
    assert [end["code"] for end in endings(folder)] == [0, 0]


def test_locks_end_with_their_process(locks: Path) -> None:
    """Also where it is killed."""
    mine = GpuLocks({})
    with subprocess.Popen([sys.executable, "-c", HOLD, str(locks)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "['0']\n"
        assert mine.take(["0"], 1) is None
        process.kill()
    assert mine.take(["0", "1"], 2) == ["0", "1"]
    mine.close()


def test_a_gpu_is_known_by_its_uuid(locks: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two controllers may have other numbers for it."""
    monkeypatch.setattr(local, "visible_gpus", lambda: [Gpu("0", 80, "GPU-aa"), Gpu("1", 80, "MIG-GPU-bb/1/0")])
    one, two = GpuLocks(local.visible_devices(2)), GpuLocks({"7": "GPU-aa"})
    assert one.take(["0", "1"], 2) == ["0", "1"]
    assert two.take(["7"], 1) is None
    assert sorted(os.listdir(locks)) == ["GPU-aa", "MIG-GPU-bb_1_0"]
    one.close()
    assert two.take(["7"], 1) == ["7"]
    two.close()


def test_locks_are_open_to_all_users(locks: Path) -> None:
    """Whatever the umask of the user who comes first."""
    before = os.umask(0o077)
    try:
        GpuLocks({}).take(["0"], 1)
    finally:
        os.umask(before)
    assert locks.stat().st_mode & 0o7777 == 0o1777
    assert (locks / "0").stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize("linked", ["folder", "file"])
def test_no_link_of_another_user_is_followed(linked: str, locks: Path, tmp_path: Path) -> None:
    target = tmp_path / "target"
    if linked == "folder":
        target.mkdir()
        locks.symlink_to(target)
    else:
        locks.mkdir()
        (locks / "0").symlink_to(target)
    with pytest.raises(UserError, match=r"E420.*locks.*Try: "):
        GpuLocks({}).take(["0"], 1)
    assert not target.exists() or not list(target.iterdir())
