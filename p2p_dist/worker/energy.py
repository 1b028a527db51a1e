"""Energy as the hardware counts it: each GPU through NVML, each processor package through Linux's powercap (RAPL).

A counter is of a whole device and of everything that ran on it. Where one cannot be read there is no number: no
package, no driver, no permission (RAPL: CVE-2020-8694), or a device without a counter.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

POWERCAP = Path("/sys/class/powercap")
WATTS = 500.0
"""More than a processor package takes: how soon its counter could have come round."""


@dataclass(frozen=True)
class Reading:
    """What a counter says now, and after how many joules it begins again at 0 (None: it does not)."""

    joules: float
    range: float | None = None


def packages(root: Path | None = None) -> dict[str, Reading]:
    """The counters of all processor packages by name; empty when there is none or one cannot be read.

    `root` is POWERCAP unless another is given."""
    found: dict[str, Reading] = {}
    for zone in sorted((root or POWERCAP).glob("intel-rapl:*")):
        try:
            name = (zone / "name").read_text().strip()
            if re.fullmatch(r"intel-rapl:\d+", zone.name) and name.startswith("package"):
                micro = [int((zone / file).read_text()) for file in ("energy_uj", "max_energy_range_uj")]
                found[name] = Reading(micro[0] / 1e6, micro[1] / 1e6)
        except (OSError, ValueError):
            return {}
    return found


def gpu(uuid: str) -> dict[str, Reading]:
    """The counter of one GPU, by its UUID without `GPU-`; empty without nvidia-ml-py, a driver or a counter."""
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
    """Joules by counter between two readings `seconds` apart. None when there is no counter, one came or went, or one
    could have come round more often than can be told."""
    if not before or before.keys() != after.keys():
        return None
    if any(reading.range is not None and seconds * WATTS >= reading.range for reading in before.values()):
        return None
    return {
        name: (after[name].joules - reading.joules) % (reading.range or float("inf"))
        for name, reading in before.items()
    }


def total(shares: list[dict[str, float] | None]) -> float | None:
    """Joules of a gang from what its ranks saw, by counter: one that several ranks share counts once. None when a rank
    saw none."""
    counters: dict[str, float] = {}
    for share in shares:
        if share is None:
            return None
        counters |= {name: max(joules, counters.get(name, 0.0)) for name, joules in share.items()}
    return sum(counters.values())
