"""Energy counters of the hardware: GPUs through NVML, processor packages through Linux's powercap (RAPL).

A counter covers a whole device and everything that runs on it. Where one cannot be read there is no number: no library,
no driver, no permission (RAPL: CVE-2020-8694), or no counter in the device.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

POWERCAP = Path("/sys/class/powercap")
WATTS = 500.0
"""More than a processor package draws: a bound on how soon its counter can wrap around."""


@dataclass(frozen=True)
class Reading:
    """Value of a counter, and the joules after which it wraps around to 0 (None: never)."""

    joules: float
    range: float | None = None


def packages(root: Path | None = None) -> dict[str, Reading]:
    """Counters of all processor packages by name; empty when there is none or one cannot be read.

    `root` defaults to POWERCAP."""
    readings: dict[str, Reading] = {}
    for zone in sorted((root or POWERCAP).glob("intel-rapl:*")):
        try:
            name = (zone / "name").read_text().strip()
            if re.fullmatch(r"intel-rapl:\d+", zone.name) and name.startswith("package"):
                micro = [int((zone / file).read_text()) for file in ("energy_uj", "max_energy_range_uj")]
                readings[name] = Reading(micro[0] / 1e6, micro[1] / 1e6)
        except (OSError, ValueError):
            return {}
    return readings


def gpu(uuid: str) -> dict[str, Reading]:
    """Counter of one GPU, by its UUID without `GPU-`; empty without nvidia-ml-py, a driver or a counter."""
    try:
        import pynvml
    except ModuleNotFoundError:
        return {}
    try:
        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid}")
        return {f"GPU-{uuid}": Reading(pynvml.nvmlDeviceGetTotalEnergyConsumption(handle) / 1000)}
    except pynvml.NVMLError:
        return {}


def used(before: Mapping[str, Reading], after: Mapping[str, Reading], seconds: float) -> dict[str, float] | None:
    """Joules by counter between two readings `seconds` apart. None when there is no counter, one appeared or vanished,
    or one can have wrapped around more than once."""
    if not before or before.keys() != after.keys():
        return None
    if any(reading.range is not None and seconds * WATTS >= reading.range for reading in before.values()):
        return None
    return {
        name: (after[name].joules - reading.joules) % (reading.range or float("inf"))
        for name, reading in before.items()
    }


def total(shares: list[dict[str, float] | None]) -> float | None:
    """Joules of a process group from those of its ranks by counter; a counter that several ranks read counts once. None
    when a rank has none."""
    counters: dict[str, float] = {}
    for share in shares:
        if share is None:
            return None
        counters |= {name: max(joules, counters.get(name, 0.0)) for name, joules in share.items()}
    return sum(counters.values())
