"""Workers as plain subprocesses: no Ray, the same results."""

import os
import socket
import time
from collections.abc import Collection

from p2p_dist.errors import user_error
from p2p_dist.planning.gpus import visible_gpus
from p2p_dist.scheduling.backend import Backend, ProcessGroup
from p2p_dist.scheduling.process import POLL_SECONDS, meeting_point
from p2p_dist.scheduling.worker_pool import IdleSlots, WorkerSlot


class LocalBackend(Backend):
    """Workers on this machine alone. Every process group has GPUs of its own."""

    def __init__(self, cpus: int, gpus: int, address: str | None = None, nodes: int = 1):
        super().__init__(cpus, gpus, address, nodes)
        if address is not None:
            raise user_error("E414", "The local backend cannot join a cluster", "--address", "add --backend ray")
        self._groups: dict[str, tuple[ProcessGroup, WorkerSlot]] = {}
        self._codes: dict[str, int] = {}
        self._idle: IdleSlots[WorkerSlot] = IdleSlots()
        self._free = visible_devices(gpus)
        self._faulty: dict[str, list[str]] = {}

    def start(self, group: ProcessGroup) -> str:
        gpus = group.gpus * group.ranks
        if gpus > self.gpus or group.nodes > 1:
            raise user_error(
                "E413",
                f"A process group needs {group.ranks} ranks over {group.nodes} node(s) with {gpus} GPUs; "
                f"this machine has {self.gpus}",
                fix="plan for this machine: omit --cluster",
            )
        slot = self._idle.take(group) or self._new_slot(gpus)
        environment = {"CUDA_VISIBLE_DEVICES": ",".join(slot.devices)} if gpus else {}
        slot.start(group, {**environment, **(meeting_point("127.0.0.1") if group.ranks > 1 else {})})
        name = str(len(self._groups) + len(self._codes))
        self._groups[name] = group, slot
        return name

    def poll(self, name: str) -> int | None:
        if name in self._codes:
            return self._codes[name]
        group, slot = self._groups[name]
        code = slot.poll()
        if code is not None:
            self._codes[name] = code
            del self._groups[name]
            if slot.has_warm_worker():
                self._idle.put(group, slot)
            else:
                self._faulty[name] = slot.faulty_devices(slot.devices)
                self._free += [device for device in slot.devices if device not in self._faulty[name]]
        return code

    def wait(self, names: Collection[str], seconds: float) -> None:
        time.sleep(min(seconds, POLL_SECONDS))  # polling a child takes microseconds

    def send_signal(self, name: str, number: int) -> None:
        if name in self._groups:
            self._groups[name][1].send_signal(number)

    def stop(self, name: str) -> None:
        if name in self._groups:
            self._groups[name][1].stop()

    def quarantine(self, name: str) -> list[str]:
        return [f"{socket.gethostname()} GPU {device}" for device in self._faulty.get(name, [])]

    def give_back(self, name: str) -> None:
        self._free += self._faulty.pop(name, [])

    def close(self) -> None:
        for name in self._groups:
            self.stop(name)
        self._release_idle()

    def _new_slot(self, devices: int) -> WorkerSlot:
        """A fresh slot; warm workers are stopped to free their devices."""
        self._release_idle()
        taken, self._free = self._free[:devices], self._free[devices:]
        return WorkerSlot(taken)

    def _release_idle(self) -> None:
        for slot in self._idle.clear():
            slot.stop()
            self._free += slot.devices


def visible_devices(gpus: int) -> list[str]:
    """Names of this machine's GPUs or MIG slices, as in CUDA_VISIBLE_DEVICES."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible:
        return [name.strip() for name in visible.split(",")][:gpus]
    names = [gpu.name for gpu in visible_gpus()] if gpus else []
    return names[:gpus] if len(names) >= gpus else [str(index) for index in range(gpus)]
