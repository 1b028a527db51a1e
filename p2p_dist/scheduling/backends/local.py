"""Workers as plain subprocesses of this process: no Ray, the same results."""

import os

from p2p_dist.errors import user_error
from p2p_dist.scheduling.backend import Backend, Gang
from p2p_dist.scheduling.process import Ranks, meeting_point


class LocalBackend(Backend):
    """One machine, nothing to start and nothing to leave behind. Every gang has its own GPUs."""

    def __init__(self, cpus: int, gpus: int, address: str | None = None, nodes: int = 1):
        super().__init__(cpus, gpus, address, nodes)
        if address is not None:
            raise user_error("E414", "the local backend joins no cluster", "--address", "--backend ray")
        self._gangs: dict[str, Ranks] = {}
        self._free = visible_devices(gpus)
        self._taken: dict[str, list[str]] = {}

    def start(self, gang: Gang) -> str:
        wanted = gang.gpus * gang.ranks
        if wanted > self.gpus or gang.nodes > 1:
            raise user_error("E413", f"a gang of {gang.ranks} ranks on {gang.nodes} node(s) with {wanted} GPUs, and this machine has {self.gpus}")
        devices, self._free = self._free[:wanted], self._free[wanted:]
        environment = {**gang.environment, **({"CUDA_VISIBLE_DEVICES": ",".join(devices)} if wanted else {})}
        if gang.ranks > 1:
            environment |= meeting_point("127.0.0.1")
        ranks = Ranks(gang.command, environment, gang.log, gang.ranks, 0, gang.ranks)
        name = str(ranks.pid)
        self._gangs[name], self._taken[name] = ranks, devices
        return name

    def poll(self, name: str) -> int | None:
        code = self._gangs[name].poll()
        if code is not None:
            self._free += self._taken.pop(name, [])
        return code

    def ask(self, name: str, number: int) -> None:
        self._gangs[name].ask(number)

    def stop(self, name: str) -> None:
        self._gangs[name].stop()

    def close(self) -> None:
        for name in self._gangs:
            self.stop(name)


def visible_devices(gpus: int) -> list[str]:
    """Names of this machine's GPUs as CUDA_VISIBLE_DEVICES has them."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return [name.strip() for name in visible.split(",")][:gpus] if visible else [str(at) for at in range(gpus)]
