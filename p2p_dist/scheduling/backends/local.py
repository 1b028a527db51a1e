"""Workers as plain subprocesses of this process: no Ray, the same results."""

import subprocess

from p2p_dist.scheduling import process
from p2p_dist.scheduling.backend import Backend, Gang


class LocalBackend(Backend):
    """One machine, nothing to start and nothing to leave behind."""

    def __init__(self, cpus: int, gpus: int):
        super().__init__(cpus, gpus)
        self._workers: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, gang: Gang) -> str:
        worker = process.start(gang.command, gang.environment, gang.log)
        self._workers[str(worker.pid)] = worker
        return str(worker.pid)

    def poll(self, name: str) -> int | None:
        return self._workers[name].poll()

    def stop(self, name: str) -> None:
        process.stop(self._workers[name])

    def close(self) -> None:
        for name in self._workers:
            self.stop(name)
