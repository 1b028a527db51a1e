"""Workers as plain subprocesses of this process: no Ray, the same results."""

import os
import time
from collections.abc import Collection

from p2p_dist.errors import user_error
from p2p_dist.scheduling.backend import Backend, Gang
from p2p_dist.scheduling.process import LOOK_SECONDS, meeting_point
from p2p_dist.scheduling.worker_pool import Waiting, WorkerSlot


class LocalBackend(Backend):
    """One machine, nothing to start and nothing to leave behind. Every gang has its own GPUs."""

    def __init__(self, cpus: int, gpus: int, address: str | None = None, nodes: int = 1):
        super().__init__(cpus, gpus, address, nodes)
        if address is not None:
            raise user_error("E414", "the local backend joins no cluster", "--address", "--backend ray")
        self._gangs: dict[str, tuple[Gang, WorkerSlot]] = {}
        self._codes: dict[str, int] = {}
        self._waiting: Waiting[WorkerSlot] = Waiting()
        self._free = visible_devices(gpus)

    def start(self, gang: Gang) -> str:
        wanted = gang.gpus * gang.ranks
        if wanted > self.gpus or gang.nodes > 1:
            raise user_error(
                "E413",
                f"a gang of {gang.ranks} ranks on {gang.nodes} node(s) with {wanted} GPUs, and this machine has "
                f"{self.gpus}",
            )
        seat = self._waiting.take(gang) or self._new_seat(wanted)
        environment = {"CUDA_VISIBLE_DEVICES": ",".join(seat.devices)} if wanted else {}
        seat.start(gang, {**environment, **(meeting_point("127.0.0.1") if gang.ranks > 1 else {})})
        name = str(len(self._gangs) + len(self._codes))
        self._gangs[name] = gang, seat
        return name

    def poll(self, name: str) -> int | None:
        if name in self._codes:
            return self._codes[name]
        gang, seat = self._gangs[name]
        code = seat.poll()
        if code is not None:
            self._codes[name] = code
            del self._gangs[name]
            if seat.is_kept():
                self._waiting.put(gang, seat)
            else:
                self._free += seat.devices
        return code

    def wait(self, names: Collection[str], seconds: float) -> None:
        time.sleep(min(seconds, LOOK_SECONDS))  # looking at a process of our own takes microseconds

    def ask(self, name: str, number: int) -> None:
        if name in self._gangs:
            self._gangs[name][1].ask(number)

    def stop(self, name: str) -> None:
        if name in self._gangs:
            self._gangs[name][1].stop()

    def close(self) -> None:
        for name in self._gangs:
            self.stop(name)
        self._give_up_waiting()

    def _new_seat(self, devices: int) -> WorkerSlot:
        """A seat of its own, for which workers that wait give up theirs."""
        self._give_up_waiting()
        taken, self._free = self._free[:devices], self._free[devices:]
        return WorkerSlot(taken)

    def _give_up_waiting(self) -> None:
        for seat in self._waiting.clear():
            seat.stop()
            self._free += seat.devices


def visible_devices(gpus: int) -> list[str]:
    """Names of this machine's GPUs as CUDA_VISIBLE_DEVICES has them."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return [name.strip() for name in visible.split(",")][:gpus] if visible else [str(at) for at in range(gpus)]
