"""Environment of a private Ray instance: token, variables, and removal of what killed instances left behind."""

import os
import secrets
import shutil
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

PREFIX = "p2p-ray-"
"""Prefix of the instances' folders in /tmp; the process id follows."""


def set_environment(token: Path) -> None:
    """Set what Ray reads at its start: a private token, no attaching to other instances, no usage statistics."""
    with os.fdopen(os.open(token, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(secrets.token_hex(32))
    os.environ.pop("RAY_ADDRESS", None)
    os.environ |= {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_gcs_server_request_timeout_seconds": "120",  # a busy machine is slow, not broken
        "RAY_worker_niceness": "0",  # the same priority as a worker without Ray (Ray's default is 15)
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        # The only switch that makes every Ray process on Linux listen on loopback alone; it names other systems
        # because there it is the default.
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    }


@contextmanager
def devices_named(names: Sequence[str]) -> Iterator[None]:
    """Let an instance that is started inside the block hand out devices by these names, as MIG slices have, and by
    numbers where there are none."""
    before = os.environ.get("CUDA_VISIBLE_DEVICES")
    if names:
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(names)
    try:
        yield
    finally:
        if before is not None:
            os.environ["CUDA_VISIBLE_DEVICES"] = before
        elif names:
            del os.environ["CUDA_VISIBLE_DEVICES"]


def clear_leftovers(parent: Path = Path("/tmp")) -> None:
    """Remove this user's folders of instances whose process was killed."""
    for folder in parent.glob(f"{PREFIX}*-*"):
        pid = folder.name.removeprefix(PREFIX).partition("-")[0]
        if _is_ours(folder) and pid.isdecimal() and not Path(f"/proc/{pid}").exists():
            shutil.rmtree(folder, ignore_errors=True)


def _is_ours(folder: Path) -> bool:
    """True for a folder of this user; False for a link, another user's folder, and one that is gone."""
    try:
        status = folder.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid()
