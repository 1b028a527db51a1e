"""Devices that a study uses no more, or not until it is clear whether they were at fault."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from p2p_dist.results import quarantine
from p2p_dist.scheduling.backend import Backend


@dataclass(frozen=True)
class _Suspects:
    """Devices of a process group whose fault may be a bug of its job."""

    group: str
    job: str
    devices: Sequence[str]


class DevicesOutOfUse:
    """Devices that a backend keeps out of use, listed in `quarantine.json`."""

    def __init__(self, backend: Backend, file: Path):
        self.backend, self.file = backend, file
        self.count = 0
        """Number of devices that are out of use."""
        self._suspects: list[_Suspects] = []
        self._alike: defaultdict[str, list[Sequence[str]]] = defaultdict(list)
        """Devices of the attempts that ended with a fault that may be a bug, by job; no two of them share one."""

    def add(self, group: str, job: str, log: Path, uncertain: bool) -> int:
        """Count and list the devices of a group that ended with a device fault. Returns the number of attempts, each on
        devices of its own, that its job has ended with an uncertain fault; 0 for a certain one."""
        devices = self.backend.quarantine(group)
        self.count += len(devices)
        if devices:
            quarantine.add(self.file, devices, log)
        if not uncertain:
            return 0
        self._suspects.append(_Suspects(group, job, devices))
        earlier = self._alike[job]
        if devices and not any(set(devices) & set(others) for others in earlier):
            earlier.append(devices)
        return len(earlier)

    def give_back(self, job: str | None = None) -> None:
        """Use the devices again whose fault is uncertain: those of one job, or all."""
        for suspects in [each for each in self._suspects if job in (None, each.job)]:
            self._suspects.remove(suspects)
            self.backend.give_back(suspects.group)
            self.count -= len(suspects.devices)
            quarantine.remove(self.file, suspects.devices)
        if job is not None:
            self._alike.pop(job, None)
