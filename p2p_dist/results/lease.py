"""Who works on a study: numbered owner files, made with link(), kept fresh while the owner lives.

`lease/000003.json` says who has it; the highest number owns. Taking over is making the next number, which link() lets
only one process do, so two takers cannot both win. Whoever finds a higher number than its own has lost the lease and
may commit nothing more (fencing). File locks do nothing on some shared file systems; a link either is made or fails
(open(2), notes on NFS). No two clocks are compared: signs of life are times of one file system, and patience is the
taker's own clock.
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
"""An owner is silent after this many heartbeats without a sign of life."""
FENCE = "P2P_DIST_LEASE"
"""Environment of a worker: `nonce:path` of the lease it works under."""
_NUMBER = re.compile(r"^(\d{6})\.json$")


@dataclass(frozen=True)
class Lease:
    """A lease that this process took."""

    file: Path
    nonce: str

    @property
    def environment(self) -> dict[str, str]:
        """What a worker needs to know to commit only while the lease is held."""
        return {FENCE: f"{self.nonce}:{self.file.resolve()}"}

    def is_held(self) -> bool:
        """Whether nobody took it over since."""
        return _owns(self.file, self.nonce)

    def check(self) -> None:
        """Raises UserError E411 (exit code 4) when somebody took it over."""
        if not self.is_held():
            raise _lost(self.file)

    def touch(self) -> None:
        """Show that the owner lives, if it still owns."""
        if self.is_held():
            os.utime(self.file)

    def release(self) -> None:
        """Leave it free for the next one; the number stays, so that numbers never repeat."""
        if self.is_held():
            _write(self.file, {**_read(self.file), "released": True})


@contextmanager
def hold(folder: Path) -> Iterator[Lease]:
    """Own `folder`'s lease while the block runs, with a heartbeat beside it. Raises UserError E406 when somebody has
    it."""
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
    """Take the lease if it is free, or its owner is dead or silent. Raises UserError E406 (exit code 4) otherwise."""
    folder.mkdir(parents=True, exist_ok=True)
    nonce = uuid.uuid4().hex
    me = {
        "host": socket.gethostname(),
        "boot": _boot(),
        "pid": os.getpid(),
        "started": _started(os.getpid()),
        "nonce": nonce,
    }
    mine = folder / f".tmp-lease-{nonce}"
    _write(mine, me)
    try:
        for _ in range(5):
            number, newest = _newest(folder)
            if newest is not None:
                _refuse_living(newest, mine)
            wanted = folder / f"{number + 1:06d}.json"
            try:
                os.link(mine, wanted)
            except FileExistsError:
                continue
            if _owns(wanted, nonce):
                _forget_older(folder, number + 1)
                return Lease(wanted, nonce)
            wanted.unlink()
        raise user_error("E406", "others take this study at the same moment", str(folder), "run again", Exit.OWNED)
    finally:
        mine.unlink(missing_ok=True)


def owner(folder: Path) -> str | None:
    """Who has the lease now, in words, or None."""
    _, newest = _newest(folder)
    held = _read(newest) if newest else {}
    return f"process {held['pid']} on {held['host']}" if held and not _is_over(held) else None


def job_owners(folder: Path) -> list[str]:
    """Who works on single jobs of the study in `folder`, in words."""
    found = (owner(path) for path in folder.glob("*/*/lease"))
    return sorted({words for words in found if words})


def check_fence() -> None:
    """For a worker, right before it commits: raises UserError E411 when the lease it was started under was taken
    over."""
    nonce, _, path = os.environ.get(FENCE, "").partition(":")
    if path and not _owns(Path(path), nonce):
        raise _lost(Path(path))


def _beat(lease: Lease, ended: threading.Event) -> None:
    while not ended.wait(HEARTBEAT_SECONDS):
        lease.touch()


def _refuse_living(newest: Path, mine: Path) -> None:
    """Raises UserError E406 while the owner shows signs of life; comes back when it is dead or stays silent."""
    held = _read(newest)
    if not held or _is_over(held):
        return
    seen = _stamp(newest)
    silent = SILENT_BEATS * HEARTBEAT_SECONDS
    os.utime(mine)
    age = mine.stat().st_mtime - seen
    deadline = time.monotonic() + silent / 2
    while age > silent and _stamp(newest) == seen:
        if time.monotonic() > deadline:
            return
        time.sleep(HEARTBEAT_SECONDS / 5)
    what = f"process {held['pid']} on {held['host']} works on this study (last sign of life {max(0, age):.0f} s ago)"
    raise user_error("E406", what, str(newest.parent), "wait for it, or `p2p-dist status`", Exit.OWNED)


def _newest(folder: Path) -> tuple[int, Path | None]:
    numbers = [
        int(match[1]) for entry in (os.listdir(folder) if folder.is_dir() else []) if (match := _NUMBER.match(entry))
    ]
    return (max(numbers), folder / f"{max(numbers):06d}.json") if numbers else (0, None)


def _owns(file: Path, nonce: str) -> bool:
    _, newest = _newest(file.parent)
    return newest is not None and newest.name == file.name and _read(newest).get("nonce") == nonce


def _forget_older(folder: Path, number: int) -> None:
    for entry in os.listdir(folder):
        if (match := _NUMBER.match(entry)) and int(match[1]) < number:
            (folder / entry).unlink(missing_ok=True)


def _lost(file: Path) -> Exception:
    what = "another process took this study over while this one was silent"
    return user_error(
        "E411", what, str(file.parent), "nothing; the other one goes on, `p2p-dist status` shows it", Exit.OWNED
    )


def _write(file: Path, content: dict[str, Any]) -> None:
    """Whole or not at all; the folder need not be synced, since a lost lease is a free one."""
    half = file.with_name(f".tmp-lease-{uuid.uuid4().hex}")
    half.write_text(json.dumps(content))
    half.replace(file)


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
    """Whether the lease was given back, or its owner was a process of this machine that is gone."""
    here = held["host"] == socket.gethostname() and held.get("boot") == _boot()
    return bool(held.get("released")) or (here and _started(int(held["pid"])) != held["started"])


def _boot() -> str:
    """This boot of this machine; process numbers of two containers with one host name differ in their namespace."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip() + os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


def _started(pid: int) -> str:
    """When a process started, in ticks since boot; empty when there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (FileNotFoundError, ProcessLookupError, IndexError):
        return ""
