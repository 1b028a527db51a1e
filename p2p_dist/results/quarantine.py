"""Devices that a study no longer uses, because a worker on them reported a fault: `quarantine.json` in its folder."""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from p2p_dist.results import atomic, confined, jsonfile
from p2p_dist.results.folder_handles import Damaged


@dataclass(frozen=True)
class Quarantined:
    """One device: its host and name, the log that names the fault, and the time of the fault in seconds (Unix)."""

    device: str
    log: str
    at: float


def add(file: Path, devices: Sequence[str], log: Path) -> None:
    """Record devices; a study that is started again tries them again."""
    known = read(file)
    new = [Quarantined(device, str(log), round(time.time(), 3)) for device in devices]
    atomic.write_json(file, [asdict(each) for each in (*known, *new)])


def remove(file: Path, devices: Sequence[str]) -> None:
    """Forget some devices."""
    atomic.write_json(file, [asdict(each) for each in read(file) if each.device not in devices])


def read(file: Path) -> list[Quarantined]:
    """The devices in the order of their faults; none where there is no file, or a damaged one."""
    try:
        return [Quarantined(str(each["device"]), str(each["log"]), float(each["at"])) for each in jsonfile.read(file)]
    except (FileNotFoundError, Damaged, KeyError, TypeError, ValueError):
        return []


def clear(file: Path) -> None:
    """Forget all devices."""
    if file.exists():
        confined.remove(file)
