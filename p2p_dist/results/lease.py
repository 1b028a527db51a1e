"""Lease on a study: numbered owner files, created with link() and touched by a heartbeat.

`lease/000003.json` names the owner; the highest number owns the study. A takeover creates the next number; link()
lets only one process do that. A process that finds a number higher than its own has lost the lease and must not commit
any more (fencing). File locks have no effect on some shared file systems; link() either succeeds or fails (open(2),
notes on NFS). No two clocks are compared: heartbeats are times of one file system, and timeouts are measured by the
clock of the process that waits.
"""

import json
import os
import re
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from p2p_dist.errors import Exit, user_error

HEARTBEAT_SECONDS = 5.0
SILENT_BEATS = 6
"""Missed heartbeats after which an owner counts as dead."""
FENCE = "P2P_DIST_LEASE"
"""Environment variable of a worker: `nonce:path` of the lease it works under."""
_NUMBER = re.compile(r"^(\d{6})\.json$")


@dataclass(frozen=True)
class Lease:
    """A lease taken by this process."""

    file: Path
    nonce: str

    @property
    def environment(self) -> dict[str, str]:
        """Environment variables that let a worker check the lease before it commits."""
        return {FENCE: f"{self.nonce}:{self.file.resolve()}"}

    def is_held(self) -> bool:
        """True until another process takes the lease over."""
        return _owns(self.file, self.nonce)

    def check(self) -> None:
        """Check that the lease is held. Raises UserError E411 (exit code 4) after a takeover."""
        if not self.is_held():
            raise _lost(self.file)

    def touch(self) -> None:
        """Send a heartbeat, if the lease is still held."""
        if self.is_held():
            os.utime(self.file)

    def release(self) -> None:
        """Release the lease; the file stays, so that numbers never repeat."""
        if self.is_held():
            _write(self.file, {**_read(self.file), "released": True})


@contextmanager
def hold(folder: Path) -> Iterator[Lease]:
    """Hold the lease on `folder` with a heartbeat while the block runs. Raises UserError E406 when it is taken."""
    lease = take(folder)
    ended = threading.Event()
    beat = threading.Thread(target=_beat, args=(lease, ended), daemon=True)
    beat.start()
    try:
        yield lease
    finally:
        ended.set()
        beat.join()
        lease.release()


def take(folder: Path) -> Lease:
    """Take the lease if it is free or its owner is dead. Raises UserError E406 (exit code 4) otherwise."""
    folder.mkdir(parents=True, exist_ok=True)
    nonce = uuid.uuid4().hex
    owner_record = {
        "host": socket.gethostname(),
        "boot": _boot(),
        "pid": os.getpid(),
        "started": _started(os.getpid()),
        "nonce": nonce,
    }
    temporary = folder / f".tmp-lease-{nonce}"
    _write(temporary, owner_record)
    try:
        for _ in range(5):
            number, newest = _newest(folder)
            if newest is not None:
                _refuse_living(newest, temporary)
            owner_file = folder / f"{number + 1:06d}.json"
            try:
                os.link(temporary, owner_file)
            except FileExistsError:
                continue
            if _owns(owner_file, nonce):
                _delete_older(folder, number + 1)
                return Lease(owner_file, nonce)
            owner_file.unlink()
        raise user_error(
            "E406", "other processes are taking this study at the same moment", str(folder), "run again", Exit.OWNED
        )
    finally:
        temporary.unlink(missing_ok=True)


def owner(folder: Path) -> str | None:
    """Current owner as text ("process PID on HOST"), or None."""
    _, newest = _newest(folder)
    held = _read(newest) if newest else {}
    return f"process {held['pid']} on {held['host']}" if held and not _is_over(held) else None


@dataclass(frozen=True)
class Holder:
    """A process that holds the study, or one of its jobs."""

    host: str
    pid: int
    is_here: bool
    """True when the process runs on this machine and in this namespace of processes."""


def holders(folder: Path) -> list[Holder]:
    """Processes that hold the study in `folder` or single jobs of it, without repetition."""
    newest = (_newest(path)[1] for path in (folder / "lease", *folder.glob("*/*/lease")))
    leases = [content for path in newest if path is not None and (content := _read(path)) and not _is_over(content)]
    here = (socket.gethostname(), _boot())
    return list(
        dict.fromkeys(
            Holder(str(held["host"]), int(held["pid"]), (held["host"], held.get("boot")) == here) for held in leases
        )
    )


def job_owners(folder: Path) -> list[str]:
    """Owners of single jobs of the study in `folder`, as text."""
    owners = (owner(path) for path in folder.glob("*/*/lease"))
    return sorted({name for name in owners if name})


def check_fence() -> None:
    """Fencing check of a worker right before it commits. Raises UserError E411 when its lease was taken over."""
    nonce, _, path = os.environ.get(FENCE, "").partition(":")
    if path and not _owns(Path(path), nonce):
        raise _lost(Path(path))


def _beat(lease: Lease, ended: threading.Event) -> None:
    while not ended.wait(HEARTBEAT_SECONDS):
        lease.touch()


def _refuse_living(newest: Path, own_file: Path) -> None:
    """Raise UserError E406 while the owner sends heartbeats; return when it is dead.

    `own_file` is touched for the current time of the file system.
    """
    held = _read(newest)
    if not held or _is_over(held):
        return
    last_beat = _stamp(newest)
    silent = SILENT_BEATS * HEARTBEAT_SECONDS
    os.utime(own_file)
    age = own_file.stat().st_mtime - last_beat
    deadline = time.monotonic() + silent / 2
    while age > silent and _stamp(newest) == last_beat:
        if time.monotonic() > deadline:
            return
        time.sleep(HEARTBEAT_SECONDS / 5)
    what = f"process {held['pid']} on {held['host']} works on this study (last heartbeat {max(0, age):.0f} s ago)"
    raise user_error("E406", what, str(newest.parent), "wait for it; `p2p-dist status` shows it", Exit.OWNED)


def _newest(folder: Path) -> tuple[int, Path | None]:
    numbers = [
        int(match[1]) for entry in (os.listdir(folder) if folder.is_dir() else []) if (match := _NUMBER.match(entry))
    ]
    return (max(numbers), folder / f"{max(numbers):06d}.json") if numbers else (0, None)


def _owns(file: Path, nonce: str) -> bool:
    _, newest = _newest(file.parent)
    return newest is not None and newest.name == file.name and _read(newest).get("nonce") == nonce


def _delete_older(folder: Path, number: int) -> None:
    for entry in os.listdir(folder):
        if (match := _NUMBER.match(entry)) and int(match[1]) < number:
            (folder / entry).unlink(missing_ok=True)


def _lost(file: Path) -> Exception:
    what = "another process took this study over while this one sent no heartbeat"
    return user_error("E411", what, str(file.parent), "follow the other process with `p2p-dist status`", Exit.OWNED)


def _write(file: Path, content: dict[str, Any]) -> None:
    """Write atomically; the folder need not be synced, since a lost lease is a free one."""
    temporary = file.with_name(f".tmp-lease-{uuid.uuid4().hex}")
    temporary.write_text(json.dumps(content))
    temporary.replace(file)


def _read(file: Path) -> dict[str, Any]:
    try:
        held: dict[str, Any] = json.loads(file.read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return {}
    return held


def _stamp(file: Path) -> float:
    try:
        return file.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _is_over(held: dict[str, Any]) -> bool:
    """True if the lease was released, or its owner was a process of this machine that no longer runs."""
    is_local = held["host"] == socket.gethostname() and held.get("boot") == _boot()
    return bool(held.get("released")) or (is_local and _started(int(held["pid"])) != held["started"])


def _boot() -> str:
    """Boot id and PID namespace of this machine: containers may share a host name but not the namespace."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip() + os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


def _started(pid: int) -> str:
    """Start time of a process in clock ticks since boot; empty when there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (FileNotFoundError, ProcessLookupError, IndexError):
        return ""
