"""Workers as plain subprocesses: no Ray, the same results."""

import os
import signal
import socket
import time
from collections.abc import Collection

from p2p_dist.errors import user_error
from p2p_dist.planning.gpus import visible_gpus
from p2p_dist.results import confined
from p2p_dist.scheduling.backend import Backend, ProcessGroup
from p2p_dist.scheduling.gpu_locks import GpuLocks
from p2p_dist.scheduling.process import POLL_SECONDS, meeting_point
from p2p_dist.scheduling.worker_pool import IdleSlots, WorkerSlot

RETRY_SECONDS = 0.5
"""Interval between two attempts to get GPUs that other controllers hold."""
IDLE_SECONDS = 5.0
"""Time that an idle warm worker keeps its GPUs: the job that comes next may be another controller's."""


class LocalBackend(Backend):
    """Workers on this machine alone. Every process group has GPUs of its own, and is pending while other controllers
    hold them."""

    def __init__(self, cpus: int, gpus: int, address: str | None = None, nodes: int = 1):
        super().__init__(cpus, gpus, address, nodes)
        if address is not None:
            raise user_error("E414", "The local backend cannot join a cluster", "--address", "add --backend ray")
        self._groups: dict[str, tuple[ProcessGroup, WorkerSlot]] = {}
        self._codes: dict[str, int] = {}
        self._pending: dict[str, tuple[ProcessGroup, float]] = {}
        """Groups without GPUs, and when to try again to get some (monotonic seconds)."""
        self._idle: IdleSlots[WorkerSlot] = IdleSlots()
        self._idle_since = 0.0
        uuids = visible_devices(gpus)
        self._free = list(uuids)
        self._locks = GpuLocks(uuids)
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
        name = str(len(self._groups) + len(self._pending) + len(self._codes))
        self._place(name, group)
        return name

    def _place(self, name: str, group: ProcessGroup) -> None:
        """Start the ranks, or leave the group pending where other controllers hold the GPUs, which its log says."""
        gpus = group.gpus * group.ranks
        slot = self._idle.take(group) or self._new_slot(gpus)
        if slot is None:
            if name not in self._pending:
                held = f"waiting for {gpus} GPU(s): other controllers on this machine hold them\n"
                confined.append(group.log, held.encode())
            self._pending[name] = group, time.monotonic() + RETRY_SECONDS
            return
        self._pending.pop(name, None)
        environment = {"CUDA_VISIBLE_DEVICES": ",".join(slot.devices)} if gpus else {}
        slot.start(group, {**environment, **(meeting_point("127.0.0.1") if group.ranks > 1 else {})})
        self._groups[name] = group, slot

    def poll(self, name: str) -> int | None:
        if name in self._codes:
            return self._codes[name]
        if name in self._pending:
            group, again = self._pending[name]
            if time.monotonic() >= again:
                self._place(name, group)
            return None
        group, slot = self._groups[name]
        code = slot.poll()
        if code is not None:
            self._codes[name] = code
            del self._groups[name]
            if slot.has_warm_worker():
                self._idle.put(group, slot)
                self._idle_since = time.monotonic()
            else:
                self._faulty[name] = slot.faulty_devices(slot.devices)
                self._free += [device for device in slot.devices if device not in self._faulty[name]]
                self._locks.release(slot.devices)
        return code

    def has_started(self, name: str) -> bool:
        return name not in self._pending

    def wait(self, names: Collection[str], seconds: float) -> None:
        if self.gpus and time.monotonic() - self._idle_since > IDLE_SECONDS:
            self._release_idle()
        time.sleep(min(seconds, POLL_SECONDS))  # polling a child takes microseconds

    def send_signal(self, name: str, number: int) -> None:
        if self._pending.pop(name, None):
            self._codes[name] = -number
        elif name in self._groups:
            self._groups[name][1].send_signal(number)

    def stop(self, name: str) -> None:
        if name in self._pending:
            self.send_signal(name, signal.SIGTERM)
        elif name in self._groups:
            self._groups[name][1].stop()

    def quarantine(self, name: str) -> list[str]:
        return [f"{socket.gethostname()} GPU {device}" for device in self._faulty.get(name, [])]

    def give_back(self, name: str) -> None:
        self._free += self._faulty.pop(name, [])

    def close(self) -> None:
        for name in (*self._groups, *self._pending):
            self.stop(name)
        self._release_idle()
        self._locks.close()

    def _new_slot(self, devices: int) -> WorkerSlot | None:
        """A fresh slot; warm workers are stopped to free their devices. None while other controllers hold them."""
        self._release_idle()
        taken = self._locks.take(self._free, devices)
        if taken is None:
            return None
        self._free = [device for device in self._free if device not in taken]
        return WorkerSlot(taken)

    def _release_idle(self) -> None:
        for slot in self._idle.clear():
            slot.stop()
            self._free += slot.devices
            self._locks.release(slot.devices)


def visible_devices(gpus: int) -> dict[str, str]:
    """UUIDs of this machine's GPUs or MIG slices by their names as in CUDA_VISIBLE_DEVICES; empty ones where nvidia-smi
    does not list the device. Raises UserError E419."""
    uuids = {gpu.name: gpu.uuid for gpu in visible_gpus()} if gpus else {}
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = [name.strip() for name in visible.split(",")] if visible else list(uuids)
    if not visible and len(names) < gpus:
        names = [str(index) for index in range(gpus)]
    return {name: uuids.get(name, "") for name in names[:gpus]}
