"""Energy from the kernel's own files: a counter that rises, comes round, cannot be read, or is shared; and none is not
0."""

import importlib.util
from pathlib import Path

import pytest
import torch

from p2p_dist.worker import cost, energy
from p2p_dist.worker.energy import Reading


def zone(root: Path, name: str, kind: str, joules: float, most: float = 262_143.0) -> Path:
    """A zone as the kernel shows it: files of text in a folder whose name may hold a colon."""
    folder = root / name
    folder.mkdir(parents=True, exist_ok=True)
    for file, text in (
        ("name", kind),
        ("energy_uj", str(int(joules * 1e6))),
        ("max_energy_range_uj", str(int(most * 1e6))),
    ):
        (folder / file).write_text(f"{text}\n")
    return folder


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two packages, with parts and a sum of their own that would count twice."""
    for index in (0, 1):
        zone(tmp_path, f"intel-rapl:{index}", f"package-{index}", 1000.0 + index)
        zone(tmp_path, f"intel-rapl:{index}:0", "core", 600.0)
    zone(tmp_path, "intel-rapl:2", "psys", 9000.0)
    (tmp_path / "intel-rapl").mkdir()
    return tmp_path


def test_packages_reads_packages_without_their_parts(root: Path) -> None:
    """Counters of whole packages are read; those of their parts would count twice."""
    assert energy.packages(root) == {"package-0": Reading(1000.0, 262_143.0), "package-1": Reading(1001.0, 262_143.0)}
    assert energy.packages(root / "nothing") == {}


def test_used_is_the_rise_between_two_readings(root: Path) -> None:
    """Joules are the difference of two readings."""
    before = energy.packages(root)
    zone(root, "intel-rapl:0", "package-0", 1240.5)
    joules = energy.used(before, energy.packages(root), 10.0)
    assert joules == {"package-0": pytest.approx(240.5), "package-1": 0.0}
    assert energy.total([joules]) == pytest.approx(240.5)


def test_used_wrapped_counter_is_added_up(root: Path) -> None:
    """A counter that wrapped around once is added up; one that can have done so twice gives no number."""
    zone(root, "intel-rapl:0", "package-0", 262_100.0)
    before = energy.packages(root)
    zone(root, "intel-rapl:0", "package-0", 57.0)
    after = energy.packages(root)
    joules = energy.used(before, after, 10.0)
    assert joules is not None
    assert joules["package-0"] == pytest.approx(100.0)
    assert energy.used(before, after, 600.0) is None, "it could have come round more than once"


@pytest.mark.parametrize("damage", ["gone", "empty", "unreadable"])
def test_packages_unreadable_counter_gives_none(root: Path, damage: str) -> None:
    """One counter that cannot be read makes the sum unknown."""
    file = root / "intel-rapl:1" / "energy_uj"
    file.unlink()
    if damage == "empty":
        file.touch()
    elif damage == "unreadable":
        file.mkdir()  # root, too, gets an error from this
    assert energy.packages(root) == {}, "one package of two would be part of the truth"


def test_used_without_the_same_counters_is_none() -> None:
    """No counter, or other counters than before, give no number."""
    assert energy.used({}, {}, 1.0) is None
    assert energy.used({"GPU-a": Reading(1.0)}, {"GPU-b": Reading(2.0)}, 1.0) is None
    assert energy.used({"GPU-a": Reading(1.0)}, {"GPU-a": Reading(3.5)}, 1e6) == {"GPU-a": 2.5}, (
        "a GPU's counter does not come round"
    )


def test_total_counts_a_shared_counter_once() -> None:
    """A counter that several ranks read counts once."""
    assert energy.total([{"a/GPU-1": 10.0}, {"a/GPU-2": 20.0}]) == 30.0
    assert energy.total([{"a/package-0": 10.0}, {"a/package-0": 10.5}, {"b/package-0": 1.0}]) == 11.5
    assert energy.total([{"a/GPU-1": 10.0}, None]) is None


def test_meter_has_energy_only_with_counters(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The cost of a stage has joules where there are counters and no such key elsewhere."""
    monkeypatch.setattr(energy, "POWERCAP", root)
    meter = cost.Meter(torch.device("cpu"))
    zone(root, "intel-rapl:1", "package-1", 1003.0)
    cost_json = meter.read(torch.float32)
    assert (cost_json["energy_joules"], cost_json["gpu_seconds"], cost_json["ranks"]) == (2.0, 0.0, 1)
    monkeypatch.setattr(energy, "POWERCAP", root / "nothing")
    assert "energy_joules" not in cost.Meter(torch.device("cpu")).read(torch.float32)


@pytest.mark.skipif(
    importlib.util.find_spec("pynvml") is None or torch.cuda.is_available(),
    reason="for machines with nvidia-ml-py and without a GPU",
)
def test_gpu_without_driver_is_empty() -> None:
    """No driver, no number."""
    assert energy.gpu("00000000-0000-0000-0000-000000000000") == {}


@pytest.mark.gpu
@pytest.mark.skipif(
    importlib.util.find_spec("pynvml") is None or not torch.cuda.is_available(), reason="needs nvidia-ml-py and a GPU"
)
def test_gpu_counter_of_a_real_gpu_rises() -> None:
    """The counter of a GPU rises while it works."""
    meter = cost.Meter(torch.device("cuda"))
    big = torch.ones(4096, 4096, device="cuda")
    for _ in range(2000):
        big = (big @ big).clamp(0, 1)
    torch.cuda.synchronize()
    assert meter.read(torch.float32)["energy_joules"] > 0


def test_meter_forgets_peaks_of_stages_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """An evaluation's peak on a GPU is its own, not that of the training before it."""
    forgotten: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", forgotten.append)
    monkeypatch.setattr(cost, "_counters", lambda device: {})
    cost.Meter(torch.device("cuda", 0))
    cost.Meter(torch.device("cpu"))
    assert forgotten == [torch.device("cuda", 0)]
