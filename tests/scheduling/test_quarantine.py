"""Devices at fault: which ones are left, on both backends, and which are given back."""

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from p2p_dist.errors import Exit
from p2p_dist.results import quarantine
from p2p_dist.scheduling.backend import Backend, ProcessGroup
from p2p_dist.scheduling.backends.local import LocalBackend
from p2p_dist.scheduling.devices_out_of_use import DevicesOutOfUse
from p2p_dist.scheduling.process import group_code
from tests.dummy_study import DummyStudy, endings

SICK = "if os.environ['CUDA_VISIBLE_DEVICES'] in {sick}: sys.exit(74)"
BUG = "print('error[E322]: CUDA error: an illegal memory access was encountered'); sys.exit(74)"
FIRST_JOB = "options.stages == sorted(os.listdir(folder.parent))[0]"
RANKS = """
import os, signal, sys, time
from pathlib import Path
signal.signal(signal.SIGTERM, lambda *_: None)
print(os.environ["CUDA_VISIBLE_DEVICES"], flush=True)
ready = Path({ready!r})
if os.environ["RANK"] == "0":
    while not ready.exists():
        time.sleep(0.01)
    sys.exit({first})
ready.touch()
time.sleep({late})
sys.exit({second})
"""
"""Two ranks that ignore a request to stop: rank 0 ends once rank 1 has begun, and rank 1 later."""


class GpuGroups:
    """Process groups with a GPU per rank, whose devices are all given back at the end."""

    def __init__(self, backend: Backend, folder: Path):
        self.backend, self.folder, self.names = backend, folder, list[str]()

    def pair(self, first: int, second: int, late: float = 0.5) -> tuple[str, int, str]:
        """As `ended`, for two ranks with these exit codes."""
        ready = str(self.folder / f"ready{len(self.names)}")
        return self.ended(RANKS.format(ready=ready, first=first, second=second, late=late), 2)

    def ended(self, code: str, ranks: int = 1) -> tuple[str, int, str]:
        """(name, exit code, log of rank 0)."""
        log = self.folder / f"log{len(self.names)}"
        name = self.backend.start(ProcessGroup((sys.executable, "-c", code), log, 1, 1, ranks=ranks))
        deadline = time.monotonic() + 60
        while (end := self.backend.poll(name)) is None:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        return name, end, log.read_text().strip()


@pytest.fixture
def groups(backend: Backend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[GpuGroups]:
    made, start = GpuGroups(backend, tmp_path), backend.start

    def noted(group: ProcessGroup) -> str:
        made.names.append(start(group))
        return made.names[-1]

    monkeypatch.setattr(backend, "start", noted)
    yield made
    for name in made.names:
        backend.give_back(name)


@pytest.fixture
def study(groups: GpuGroups, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> DummyStudy:
    return DummyStudy(tmp_path, monkeypatch, groups.backend)


@pytest.fixture
def on_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int], DummyStudy]]:
    """Studies on a local backend with a number of GPUs."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2")
    with contextlib.ExitStack() as open_backends:

        def study(gpus: int) -> DummyStudy:
            backend = open_backends.enter_context(contextlib.closing(LocalBackend(2, gpus)))
            return DummyStudy(tmp_path, monkeypatch, backend)

        yield study


def test_a_sick_gpu_is_left_and_the_study_ends(study: DummyStudy) -> None:
    """A device fault costs one attempt; the other GPU does all jobs, and `quarantine.json` names the sick one."""
    state, folder = study.run(SICK.format(sick={"0"}), jobs=3)
    assert (len(state.done), state.failed) == (3, [])
    assert [end["code"] for end in endings(folder)].count(Exit.DEVICE) == 1
    (sick,) = quarantine.read(folder.quarantine)
    assert sick.device.endswith(" GPU 0")
    assert Path(sick.log).is_file()


def test_every_sound_gpu_is_tried(on_gpus: Callable[[int], DummyStudy], monkeypatch: pytest.MonkeyPatch) -> None:
    """Three of four GPUs are at fault, and the only job that can start meets them one after the other."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,3")
    state, folder = on_gpus(4).run(SICK.format(sick={"0", "1", "2"}), slots=4)
    assert (len(state.done), state.failed) == (1, [])
    assert len(quarantine.read(folder.quarantine)) == 3


@pytest.mark.parametrize("backend", ["local"], indirect=True)
def test_no_gpu_left_fails_every_job(study: DummyStudy) -> None:
    state, folder = study.run(SICK.format(sick={"0", "1"}), jobs=3)
    assert len(state.failed) == 3
    assert "2 are out of use" in state.failed[-1].reason
    assert len(quarantine.read(folder.quarantine)) == 2


def test_gpu_of_a_rank_that_ends_later_is_the_faulty_one(groups: GpuGroups) -> None:
    """Rank 0 fails because of rank 1, whose fault is noticed half a second later, after the request to stop. The GPU of
    rank 0 goes to the next job, and that of rank 1 once it is given back."""
    name, code, devices = groups.pair(1, 74)
    sound, sick = devices.split(",")
    assert code == Exit.DEVICE
    assert [device.split()[-1] for device in groups.backend.quarantine(name)] == [sick]
    show = "import os; print(os.environ['CUDA_VISIBLE_DEVICES'])"
    assert [groups.ended(show)[1:] for _ in range(2)] == [(0, sound)] * 2
    groups.backend.give_back(name)
    _, code, devices = groups.ended(show, ranks=2)
    assert (code, sorted(devices.split(","))) == (0, ["0", "1"])


def test_fault_on_another_ray_node_takes_one_gpu() -> None:
    """The code that comes later, from another node, is that of the group, and three of its four GPUs are free again."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    probe = [sys.executable, str(Path(__file__).with_name("probe_two_nodes.py"))]
    done = subprocess.run(probe, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found.pop("faulty") in (["0"], ["1"])
    assert found == {"code": Exit.DEVICE, "left": 3, "given back": 4}


def test_every_rank_with_a_fault_loses_its_gpu(groups: GpuGroups) -> None:
    name, code, _ = groups.pair(74, 74)
    assert (code, len(groups.backend.quarantine(name))) == (Exit.DEVICE, 2)


@pytest.mark.parametrize("backend", ["local"], indirect=True)
def test_a_stop_stays_a_stop(groups: GpuGroups) -> None:
    """What a rank reports while the group stops as it was asked to is left to the next start."""
    name, code, _ = groups.pair(75, 74)
    assert (code, groups.backend.quarantine(name)) == (Exit.REQUEUE, [])


@pytest.mark.parametrize(
    ("failure", "codes", "expected"),
    [
        (None, [None, 0], None),
        (None, [1, None], 1),
        (None, [1, 74], 74),
        (1, [1, 74], 74),
        (-9, [-9, 74], 74),
        (1, [1, 75], 1),
        (74, [75, 74], 74),
        (None, [1, 75], 75),
        (None, [74, 75], 75),
        (75, [75, 74], 75),
        (2, [1, 2], 2),
    ],
)
def test_code_of_a_group(failure: int | None, codes: list[int | None], expected: int | None) -> None:
    """The first failure, but a device fault wins; a stop that nobody's failure caused was requested."""
    assert group_code(failure, codes) == expected


def test_job_that_fails_alike_on_two_gpus_has_a_bug(study: DummyStudy) -> None:
    """It fails with its own error, and no GPU is left out of use."""
    state, folder = study.run(f"if {FIRST_JOB}: {BUG}", jobs=2)
    (failure,) = state.failed
    assert failure.reason == "failed alike on other devices too: a bug and no device fault"
    assert "illegal memory access" in failure.tail[-1]
    assert (len(state.done), quarantine.read(folder.quarantine)) == (1, [])


def test_certain_fault_stays_when_a_bug_is_given_back(on_gpus: Callable[[int], DummyStudy]) -> None:
    """A job meets a sick GPU, then its own bug on two others."""
    state, folder = on_gpus(3).run(f"{SICK.format(sick={'0'})}\n{BUG}", slots=3)
    assert "alike on other devices" in state.failed[0].reason
    assert [each.device.split()[-1] for each in quarantine.read(folder.quarantine)] == ["0"]


def test_attempts_of_a_job_on_other_devices_are_counted(tmp_path: Path) -> None:
    """Two ranks of one attempt may have met one fault, and an attempt on a device that comes again tells nothing."""
    held = {"1": ["a", "b"], "2": ["c"], "3": ["a"], "4": ["d"]}
    given_back: list[str] = []
    backend = SimpleNamespace(quarantine=held.__getitem__, give_back=given_back.append)
    out = DevicesOutOfUse(backend, tmp_path / "quarantine.json")  # type: ignore[arg-type]
    job = [out.add(group, "job", tmp_path / "log", uncertain=True) for group in "123"]
    assert (job, out.add("4", "other", tmp_path / "log", uncertain=True), out.count) == ([1, 2, 2], 1, 5)
    out.give_back("job")
    assert (given_back, out.count) == (["1", "2", "3"], 1)
    assert [each.device for each in quarantine.read(out.file)] == ["d"]
    assert out.add("2", "job", tmp_path / "log", uncertain=True) == 1


def test_bug_on_the_only_gpu_fails_its_own_job_alone(on_gpus: Callable[[int], DummyStudy]) -> None:
    """A GPU whose fault is uncertain is used again before a job fails for lack of devices."""
    state, folder = on_gpus(1).run(f"if {FIRST_JOB}: {BUG}", jobs=2, slots=1)
    assert len(state.done) == 1
    assert [failure.reason for failure in state.failed] == ["device fault, 3 times in a row without progress"]
    assert [end["code"] for end in endings(folder)].count(Exit.DEVICE) == 3
