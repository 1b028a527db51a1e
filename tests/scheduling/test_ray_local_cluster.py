"""Private Ray instances: slow and failing starts, stop requests meanwhile, and leftovers of killed ones."""

import os
import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from p2p_dist.errors import UserError
from p2p_dist.scheduling import ray_local_cluster, signals
from p2p_dist.scheduling.backends.ray import RayBackend


def test_only_own_folders_of_dead_processes_are_removed(tmp_path: Path) -> None:
    dead, living = tmp_path / "p2p-ray-999999999-a", tmp_path / f"p2p-ray-{os.getpid()}-b"
    (dead / "r").mkdir(parents=True)
    living.mkdir()
    (tmp_path / "kept").mkdir()
    (tmp_path / "p2p-ray-999999998-x").symlink_to(tmp_path / "nowhere")
    (tmp_path / "p2p-ray-999999997-x").symlink_to(tmp_path / "kept")
    (tmp_path / "p2p-ray-999999996-x").write_text("")
    (tmp_path / "p2p-ray-no-number").mkdir()
    ray_local_cluster.clear_leftovers(tmp_path)
    assert not dead.exists()
    assert living.exists()
    assert len(list(tmp_path.iterdir())) == 6


class _Ray(ModuleType):
    """A Ray whose start ends in this way, attempt by attempt."""

    def __init__(self, *starts: Callable[[], None]):
        super().__init__("ray")
        self.starts = list(starts)
        self.util = ModuleType("ray.util")

    def is_initialized(self) -> bool:
        return not self.starts

    def init(self, **options: object) -> None:
        self.starts.pop(0)()

    def get_runtime_context(self) -> SimpleNamespace:
        return SimpleNamespace(gcs_address="127.0.0.1:1")

    def remote(self, actor: type) -> type:
        return actor


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., RayBackend]:
    """Start a backend under such a Ray, without waiting; its private folder is in `tmp_path`."""
    monkeypatch.setattr(ray_local_cluster, "set_environment", lambda token: None)
    monkeypatch.setattr(ray_local_cluster, "clear_leftovers", lambda: None)
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    make = tempfile.mkdtemp
    monkeypatch.setattr("tempfile.mkdtemp", lambda prefix, dir: make(prefix=prefix, dir=tmp_path))

    def begin(*starts: Callable[[], None]) -> RayBackend:
        ray = _Ray(*starts)
        monkeypatch.setitem(sys.modules, "ray", ray)
        monkeypatch.setitem(sys.modules, "ray.util", ray.util)
        return RayBackend(1, 0)

    return begin


def timeout() -> None:
    raise Exception("the node did not register in 30 seconds")  # as Ray raises it


def test_ray_slow_start_is_tried_again(start: Callable[..., RayBackend], tmp_path: Path) -> None:
    """Ray gives up after 30 s, which a busy machine may need."""
    backend = start(timeout, timeout, lambda: None)
    assert backend._ray.starts == []
    assert len(list(tmp_path.iterdir())) == 1
    backend._remove_folder()


def test_ray_that_never_starts_is_e415_and_leaves_no_folder(
    start: Callable[..., RayBackend], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("p2p_dist.scheduling.backends.ray.START_SECONDS", 0.0)
    with pytest.raises(UserError, match=r"E415.*did not start.*did not register.*--backend local"):
        start(timeout, timeout)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("number", signals.NUMBERS)
def test_signal_during_the_start_of_ray_is_a_stop(
    number: int, start: Callable[..., RayBackend], tmp_path: Path
) -> None:
    """Whether Ray's own handler is set by then or not; the private folder is removed."""

    def with_own_handler() -> None:
        signal.signal(number, lambda number, frame: sys.exit(number))
        os.kill(os.getpid(), number)

    for init in (lambda: os.kill(os.getpid(), number), with_own_handler):
        with pytest.raises(signals.Stopped), signals.raising():
            start(init)
        assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("number", signals.NUMBERS)
def test_stop_that_ray_turns_into_an_error_of_its_own_is_a_stop(
    number: int, start: Callable[..., RayBackend], tmp_path: Path
) -> None:
    """Ray's C code raises SystemError in place of what a handler raised, ours or Ray's own of SIGTERM; trying again
    would forget it."""

    def lost() -> None:
        if number == signal.SIGTERM:
            signal.signal(number, lambda number, frame: sys.exit(number))
        try:
            os.kill(os.getpid(), number)
        except BaseException as error:
            raise SystemError("returned a result with an exception set") from error

    with pytest.raises(signals.Stopped), signals.raising():
        start(lost, lambda: None)
    assert not list(tmp_path.iterdir())
