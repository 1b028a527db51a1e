"""Where gangs run on a node, one after the other: fresh processes, or a worker that stays for the next gang."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Generic, TypeVar

from p2p_dist import worker_protocol
from p2p_dist.scheduling import process
from p2p_dist.scheduling.backend import Gang, Service
from p2p_dist.scheduling.process import Processes, Ranks

Place = TypeVar("Place")


class Kept(Processes):
    """A worker that takes job after job. A job that ends with code 0 is answered; any other end is the end of the
    worker, and its exit code or signal is the job's."""

    def __init__(self, service: Service, environment: Mapping[str, str], log: Path):
        self.process = process.start(service.command, environment, log, talks=True)
        super().__init__([self.process])
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.requests, self.answers = self.process.stdin, self.process.stdout
        os.set_blocking(self.answers.fileno(), False)
        self.code: int | None = None
        self.stays = True

    def begin(self, service: Service, log: Path) -> bool:
        """Ask for a job. False when the worker has ended meanwhile."""
        log.touch()
        try:
            self.requests.write(worker_protocol.request(service.arguments, service.told, log))
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
                self.code, self.stays = ended, False
                self._hang_up()
        return self.code

    def stop(self) -> None:
        super().stop()
        if self.code is None:
            self.code = self.process.poll()
        self.stays = False
        self._hang_up()

    def _hang_up(self) -> None:
        self.requests.close()
        self.answers.close()


class WorkerSlot:
    """A place on one node with its devices. At most one gang is there at a time."""

    def __init__(self, devices: Sequence[str] = ()):
        self.devices = devices
        self.running: Processes | None = None
        self.kept: Kept | None = None

    def start(self, gang: Gang, environment: Mapping[str, str], first: int = 0) -> None:
        """Start this node's ranks of a gang, the first of which has number `first`, in the gang's environment and
        this."""
        whole = {**gang.environment, **environment}
        if gang.service is None:
            self.running = Ranks(gang.command, whole, gang.log, gang.ranks_per_node, first, gang.ranks)
            return
        if self.kept is None or not self.kept.begin(gang.service, gang.log):
            self.kept = Kept(gang.service, whole, gang.log)
            self.kept.begin(gang.service, gang.log)
        self.running = self.kept

    def poll(self) -> int | None:
        """Exit code of the gang, or None while it runs."""
        assert self.running is not None
        return self.running.poll()

    def is_kept(self) -> bool:
        """Whether the gang that has ended left a worker behind that can take another."""
        return self.kept is not None and self.kept.stays

    def ask(self, number: int) -> None:
        """Send a signal to the gang."""
        if self.running is not None:
            self.running.ask(number)

    def stop(self) -> None:
        """End the gang, and the worker that stayed."""
        for each in (self.running, self.kept):
            if each is not None:
                each.stop()


class Waiting(Generic[Place]):
    """Places whose workers wait for a gang."""

    def __init__(self) -> None:
        self._places: list[tuple[Gang, Place]] = []

    def put(self, gang: Gang, place: Place) -> None:
        """The place did this gang, and its worker stayed."""
        self._places.append((gang, place))

    def take(self, gang: Gang) -> Place | None:
        """A place whose worker can do this gang: one with the base that it wants if there is one, else the one that has
        waited longest."""
        if gang.service is None:
            return None
        fitting = [at for at, (before, _) in enumerate(self._places) if before.seat == gang.seat]
        alike = [
            at
            for at in fitting
            if (service := self._places[at][0].service) is not None and service.base == gang.service.base
        ]
        chosen = (alike or fitting)[:1]
        return self._places.pop(chosen[0])[1] if chosen else None

    def clear(self) -> list[Place]:
        """Take all of them."""
        places = [place for _, place in self._places]
        self._places.clear()
        return places
