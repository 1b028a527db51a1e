"""Per-node worker slot: runs one process group at a time and reuses a warm worker when it can."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Generic, TypeVar

from p2p_dist import worker_protocol
from p2p_dist.errors import Exit
from p2p_dist.scheduling import process
from p2p_dist.scheduling.backend import ProcessGroup, Service
from p2p_dist.scheduling.process import Processes, RankProcesses

Place = TypeVar("Place")


class WarmWorker(Processes):
    """A worker that takes one job after the other. It answers a job that succeeded; on any other end it exits, and its
    exit code or signal is the job's."""

    def __init__(self, service: Service, environment: Mapping[str, str], log: Path):
        self.process = process.start(service.command, environment, log, talks=True)
        super().__init__([self.process])
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.requests, self.answers = self.process.stdin, self.process.stdout
        os.set_blocking(self.answers.fileno(), False)
        self.code: int | None = None
        self.reusable = True

    def begin(self, service: Service, log: Path) -> bool:
        """Send a job to the worker. False when the worker is dead."""
        log.touch()
        try:
            self.requests.write(worker_protocol.request(service.arguments, service.job_environment, log))
        except BrokenPipeError:
            self.stop()
            return False
        self.code = None
        process.note_host(log, 0, 1)
        return True

    def poll(self) -> int | None:
        if self.code is None:
            ended = self.process.poll()  # before the answer is looked for, which came before the end
            if self.answers.read():
                self.code = 0
            elif ended is not None:
                self.code, self.reusable = ended, False
                self._hang_up()
        return self.code

    def stop(self) -> None:
        super().stop()
        if self.code is None:
            self.code = self.process.poll()
        self.reusable = False
        self._hang_up()

    def _hang_up(self) -> None:
        self.requests.close()
        self.answers.close()


class WorkerSlot:
    """The devices of one worker on one node; runs at most one process group at a time."""

    def __init__(self, devices: Sequence[str] = ()):
        self.devices = devices
        self.running: Processes | None = None
        self.warm_worker: WarmWorker | None = None

    def start(self, group: ProcessGroup, environment: Mapping[str, str], first: int = 0) -> None:
        """Start this node's ranks of a group, beginning with rank `first`, with `environment` added to the group's."""
        variables = {**group.environment, **environment}
        if group.service is None:
            self.running = RankProcesses(group.command, variables, group.log, group.ranks_per_node, first, group.ranks)
            return
        if self.warm_worker is None or not self.warm_worker.begin(group.service, group.log):
            self.warm_worker = WarmWorker(group.service, variables, group.log)
            self.warm_worker.begin(group.service, group.log)
        self.running = self.warm_worker

    def poll(self) -> int | None:
        """Exit code of the group, or None while it runs."""
        assert self.running is not None
        return self.running.poll()

    def faulty_devices(self, devices: Sequence[str]) -> list[str]:
        """Those of the slot's devices on which a worker ended with a device fault: one per rank, or all where that is
        unknown."""
        if self.poll() != Exit.DEVICE:
            return []
        ranks = self.running.faulty() if isinstance(self.running, RankProcesses) else []
        known = ranks and max(ranks) < len(devices)
        return [devices[rank] for rank in ranks] if known else list(devices)

    def has_warm_worker(self) -> bool:
        """True when the group has ended and its worker can take another job."""
        return self.warm_worker is not None and self.warm_worker.reusable

    def send_signal(self, number: int) -> None:
        """Send a signal to the group."""
        if self.running is not None:
            self.running.send_signal(number)

    def stop(self) -> None:
        """Stop the group and the warm worker."""
        for each in (self.running, self.warm_worker):
            if each is not None:
                each.stop()


class IdleSlots(Generic[Place]):
    """Worker slots whose warm workers wait for a job."""

    def __init__(self) -> None:
        self._places: list[tuple[ProcessGroup, Place]] = []

    def put(self, group: ProcessGroup, place: Place) -> None:
        """Add a slot whose worker is warm after `group`."""
        self._places.append((group, place))

    def take(self, group: ProcessGroup) -> Place | None:
        """Remove and return a slot whose worker can take the group: one that holds its base model, else the one that
        has waited longest. None when there is none."""
        if group.service is None:
            return None
        fitting = [index for index, (previous, _) in enumerate(self._places) if previous.worker_key == group.worker_key]
        same_base = [
            index
            for index in fitting
            if (service := self._places[index][0].service) is not None and service.base == group.service.base
        ]
        chosen = (same_base or fitting)[:1]
        return self._places.pop(chosen[0])[1] if chosen else None

    def clear(self) -> list[Place]:
        """Remove and return all slots."""
        places = [place for _, place in self._places]
        self._places.clear()
        return places
