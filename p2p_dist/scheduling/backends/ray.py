"""Workers under Ray: this study's own instance on this machine, never somebody else's.

Ray places an actor per gang; the actor starts the worker as a real process, so that signals, exit codes and devices stay
ordinary. The instance has a token, listens on loopback, keeps its files in a short private folder, and ends with this
process (reference: Ray attaches `ray.init()` to any instance it finds on the host unless told not to).
"""

import contextlib
import os
import secrets
import shutil
import subprocess
import tempfile
import warnings
from pathlib import Path
from typing import Any

from p2p_dist.scheduling import process
from p2p_dist.scheduling.backend import Backend, Gang

_PREFIX = "p2p-ray-"


class RayBackend(Backend):
    """A local Ray with `cpus` and `gpus` as its resources."""

    def __init__(self, cpus: int, gpus: int):
        super().__init__(cpus, gpus)
        _clear_leftovers()
        self._folder = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-", dir="/tmp"))
        _set_environment(self._folder / "token")
        import ray  # seconds to import, and only needed here

        self._ray: Any = ray
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ray.init(
                address="local",
                num_cpus=cpus,
                num_gpus=gpus,
                include_dashboard=False,
                log_to_driver=False,
                logging_level="error",
                object_store_memory=128 << 20,
                _temp_dir=str(self._folder / "r"),  # Ray opens its own folder to everybody; ours around it stays shut
            )
        self._remote = ray.remote(_Gang)
        self._gangs: dict[str, Any] = {}

    def start(self, gang: Gang) -> str:
        actor = self._remote.options(num_cpus=gang.cpus, num_gpus=gang.gpus).remote()
        pid = self._ray.get(actor.start.remote(gang.command, dict(gang.environment), str(gang.log)))
        self._gangs[str(pid)] = actor
        return str(pid)

    def poll(self, name: str) -> int | None:
        try:
            code: int | None = self._ray.get(self._gangs[name].poll.remote())
        except self._ray.exceptions.RayActorError:
            code = -9
        if code is not None and name in self._gangs:
            self._ray.kill(self._gangs[name])
        return code

    def stop(self, name: str) -> None:
        with contextlib.suppress(self._ray.exceptions.RayActorError):
            self._ray.get(self._gangs[name].stop.remote())

    def close(self) -> None:
        for name in self._gangs:
            self.stop(name)
        self._ray.shutdown()
        shutil.rmtree(self._folder, ignore_errors=True)


class _Gang:
    """The actor: holds one worker process on its node."""

    def __init__(self) -> None:
        self._worker: subprocess.Popen[bytes] | None = None

    def start(self, command: tuple[str, ...], environment: dict[str, str], log: str) -> int:
        self._worker = process.start(command, environment, Path(log))
        return self._worker.pid

    def poll(self) -> int | None:
        assert self._worker is not None
        return self._worker.poll()

    def stop(self) -> None:
        assert self._worker is not None
        process.stop(self._worker)


def _set_environment(token: Path) -> None:
    """Ray reads these when it starts: a token of our own, no attaching, no usage statistics."""
    with os.fdopen(os.open(token, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(secrets.token_hex(32))
    os.environ.pop("RAY_ADDRESS", None)
    os.environ |= {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_worker_niceness": "0",  # the same priority as a worker without Ray (Ray's default is 15)
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        # The only switch that makes every Ray process on Linux listen on loopback alone; it names other systems
        # because there it is the default.
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    }


def _clear_leftovers() -> None:
    """Remove the folders of our instances whose process was killed."""
    for folder in Path("/tmp").glob(f"{_PREFIX}*-*"):
        pid = folder.name.removeprefix(_PREFIX).partition("-")[0]
        if folder.stat().st_uid == os.getuid() and pid.isdigit() and not Path(f"/proc/{pid}").exists():
            shutil.rmtree(folder, ignore_errors=True)
