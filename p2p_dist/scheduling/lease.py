"""One controller per study: a file that says who owns it, taken with link(), kept fresh while the owner lives.

File locks do nothing on some shared file systems; a link either is made or fails (reference: open(2), notes on NFS).
"""

import json
import os
import socket
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from p2p_dist.errors import Exit, user_error

STALE_SECONDS = 30.0


@contextmanager
def hold(path: Path) -> Iterator[None]:
    """Own the study while the block runs. Raises UserError E406 (exit code 4) when somebody else does."""
    path.parent.mkdir(parents=True, exist_ok=True)
    me = {"host": socket.gethostname(), "pid": os.getpid(), "started": _started(os.getpid()), "nonce": uuid.uuid4().hex}
    mine = path.with_name(f".tmp-lease-{me['nonce']}")
    mine.write_text(json.dumps(me))
    try:
        _take(path, mine)
    finally:
        mine.unlink(missing_ok=True)
    try:
        yield
    finally:
        if _read(path).get("nonce") == me["nonce"]:
            path.unlink(missing_ok=True)


def refresh(path: Path) -> None:
    """Show that the owner lives; called by the scheduler loop."""
    os.utime(path)


def owner(path: Path) -> str | None:
    """Who owns the study now, in words, or None."""
    held = _read(path)
    return f"process {held['pid']} on {held['host']}" if held and not _is_dead(held) else None


def _take(path: Path, mine: Path) -> None:
    for _ in range(3):
        try:
            os.link(mine, path)
            return
        except FileExistsError:
            held = _read(path)
            if not held or _is_dead(held) or _is_stale(path):
                path.unlink(missing_ok=True)
                continue
            age = time.time() - path.stat().st_mtime
            what = f"process {held['pid']} on {held['host']} works on this study (last sign of life {age:.0f} s ago)"
            raise user_error("E406", what, str(path), "wait for it, or `p2p-dist status`", Exit.OWNED) from None
    raise user_error("E406", "another process took the study at the same moment", str(path), "run again", Exit.OWNED)


def _read(path: Path) -> dict[str, str | int]:
    try:
        held: dict[str, str | int] = json.loads(path.read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return {}
    return held


def _is_dead(held: dict[str, str | int]) -> bool:
    """Whether the owner was a process of this host that is gone (its number may have been given away again)."""
    return held["host"] == socket.gethostname() and _started(int(held["pid"])) != held["started"]


def _is_stale(path: Path) -> bool:
    """Whether the owner, on another host, shows no sign of life for a while of our own clock."""
    first = path.stat().st_mtime
    held = _read(path)
    if held.get("host") == socket.gethostname():
        return False
    deadline = time.monotonic() + STALE_SECONDS
    while time.monotonic() < deadline:
        time.sleep(1)
        if not path.exists() or path.stat().st_mtime != first:
            return False
    return True


def _started(pid: int) -> str:
    """When a process started, in ticks since boot; empty when there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (FileNotFoundError, ProcessLookupError, IndexError):
        return ""
