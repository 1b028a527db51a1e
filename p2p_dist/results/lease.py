"""Lease on a study: numbered owner files, created with link() and touched by a heartbeat.

`lease/000003.json` names the owner; the highest number owns the study. A takeover creates the next number; link()
lets only one process do that. A process that finds a number higher than its own has lost the lease and must not commit
any more (fencing). File locks have no effect on some shared file systems; link() either succeeds or fails (open(2),
notes on NFS). A takeover never rests on the clock of another machine: an owner is alive while the time of its file
*changes*, whatever it says, and the wait for a change is measured by the clock of the process that waits.
"""

import contextlib
import errno
import json
import os
import re
import socket
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from p2p_dist.errors import Exit, UserError, printable, user_error
from p2p_dist.results import confined, jsonfile
from p2p_dist.results.folder_handles import Damaged

HEARTBEAT_SECONDS = 5.0
SILENT_BEATS = 6
"""Missed heartbeats after which an owner counts as dead."""
FENCE = "P2P_DIST_LEASE"
"""Environment variable of a worker: `nonce:path` of the lease it works under."""
NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EXDEV)
"""Errors of `link()` on a file system without hard links."""
_LARGEST = 1 << 16
"""Bytes of the largest owner file that is read."""
_NUMBER = re.compile(r"^(\d{6})\.json$")


@dataclass(frozen=True)
class Owner:
    """Owner of a lease, as its file names it."""

    host: str
    boot: str
    pid: int
    started: str
    """Start of the process, in clock ticks since boot."""
    nonce: str
    released: bool = False

    @property
    def label(self) -> str:
        """Name for people; a file from elsewhere may hold anything."""
        return f"process {self.pid} on {printable(self.host)}"

    def is_local(self) -> bool:
        """True for a process of this machine and this namespace of processes."""
        return (self.host, self.boot) == (socket.gethostname(), _boot())

    def is_over(self) -> bool:
        """True if the lease was released, or its owner was a process of this machine that no longer runs."""
        return self.released or (self.is_local() and _started(self.pid) != self.started)


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
            with contextlib.suppress(OSError):  # a missed beat; the file is looked at before every commit
                os.utime(self.file, follow_symlinks=False)

    def release(self) -> None:
        """Release the lease; the file stays, so that numbers never repeat."""
        if self.is_held():
            held = _read(self.file)
            if held is not None:
                _write(self.file, {**asdict(held), "released": True})


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
    """Take the lease if it is free or its owner is dead. Raises UserError E406 (exit code 4) otherwise, E506 on a file
    system without hard links, E518 and E520 where the folder cannot be written."""
    confined.make_folder(folder)
    nonce = uuid.uuid4().hex
    owner_record = Owner(socket.gethostname(), _boot(), os.getpid(), _started(os.getpid()), nonce)
    temporary = folder / f".tmp-lease-{nonce}"
    _write(temporary, asdict(owner_record))
    try:
        for _ in range(5):
            number, newest = _newest(folder)
            if newest is not None:
                _refuse_living(newest, temporary)
            owner_file = folder / f"{number + 1:06d}.json"
            try:
                _link(temporary, owner_file)
            except FileExistsError:
                continue
            if _owns(owner_file, nonce):
                _delete_older(folder, number + 1)
                return Lease(owner_file, nonce)
            confined.remove(owner_file)
        raise user_error(
            "E406", "other processes are taking this study at the same moment", str(folder), "run again", Exit.OWNED
        )
    finally:
        with contextlib.suppress(UserError):  # the folder may be gone
            confined.remove(temporary)


def owner(folder: Path) -> str | None:
    """Current owner as text ("process PID on HOST"), or None."""
    _, newest = _newest(folder)
    held = _read(newest) if newest else None
    return held.label if held and not held.is_over() else None


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
    leases = [held for path in newest if path is not None and (held := _read(path)) and not held.is_over()]
    return list(dict.fromkeys(Holder(held.host, held.pid, held.is_local()) for held in leases))


def job_owners(folder: Path) -> list[str]:
    """Owners of single jobs of the study in `folder`, as text."""
    stages = (f"{folder}/{kind}/{name}" for kind in confined.names(folder) for name in confined.names(folder / kind))
    owners = (owner(Path(stage, "lease")) for stage in stages if os.path.isdir(f"{stage}/lease"))
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
    """Raise UserError E406 while the owner lives; return when it is dead, or when the file names no owner.

    A stamp that is young by the time of the file system (`own_file` is touched for it) is refused at once; any other,
    also one in the future, is watched for a change for SILENT_BEATS heartbeats of this process's clock.
    """
    held = _read(newest)
    if held is None or held.is_over():
        return
    last_beat = _stamp(newest)
    silent = SILENT_BEATS * HEARTBEAT_SECONDS
    os.utime(own_file)
    age = _stamp(own_file) - last_beat
    deadline = time.monotonic() + silent
    while not 0 <= age <= silent and _stamp(newest) == last_beat:
        if time.monotonic() > deadline:
            return
        time.sleep(HEARTBEAT_SECONDS / 5)
    what = f"{held.label} works on this study"
    if 0 <= age <= silent:
        what += f" (last heartbeat {age:.0f} s ago)"
    raise user_error("E406", what, str(newest.parent), "wait for it; `p2p-dist status` shows it", Exit.OWNED)


def _link(source: Path, target: Path) -> None:
    """Create `target` as a hard link. Raises FileExistsError, and UserError E506 where there are no hard links."""
    with confined.writing(target.parent) as folder:
        try:
            os.link(source.name, target.name, src_dir_fd=folder, dst_dir_fd=folder)
        except OSError as error:
            if error.errno in NO_LINKS:
                raise without_links(error, target.parent) from error
            raise


def without_links(error: OSError, folder: Path) -> UserError:
    """UserError E506 for a file system on which `link()` fails."""
    fix = "choose a folder on another file system with --runs-dir"
    return user_error("E506", f"no hard links on this file system ({error.strerror})", str(folder), fix)


def _newest(folder: Path) -> tuple[int, Path | None]:
    numbers = [int(match[1]) for name in confined.names(folder) if (match := _NUMBER.match(name))]
    return (max(numbers), folder / f"{max(numbers):06d}.json") if numbers else (0, None)


def _owns(file: Path, nonce: str) -> bool:
    _, newest = _newest(file.parent)
    held = _read(newest) if newest is not None and newest.name == file.name else None
    return held is not None and held.nonce == nonce


def _delete_older(folder: Path, number: int) -> None:
    for name in confined.names(folder):
        if (match := _NUMBER.match(name)) and int(match[1]) < number:
            with contextlib.suppress(UserError):  # a folder under that name owns nothing
                confined.remove(folder / name)


def _lost(file: Path) -> Exception:
    if confined.kind_of(file.parent) != "folder":
        what = "the run folder was removed while the study ran"
        fix = "run the same command to start again, or restore the folder first"
        return user_error("E522", what, str(file.parent.parent), fix, Exit.INTEGRITY)
    what = "another process took this study over while this one sent no heartbeat"
    return user_error("E411", what, str(file.parent), "follow the other process with `p2p-dist status`", Exit.OWNED)


def _write(file: Path, content: Mapping[str, object]) -> None:
    """Write atomically; the folder need not be synced, since a lost lease is a free one."""
    with confined.writing(file.parent, create=False) as folder:
        temporary = f".tmp-lease-{uuid.uuid4().hex}"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with os.fdopen(os.open(temporary, flags, 0o666, dir_fd=folder), "w") as unfinished:
            json.dump(content, unfinished)
        os.rename(temporary, file.name, src_dir_fd=folder, dst_dir_fd=folder)


def _read(file: Path) -> Owner | None:
    """Owner in a file; None for a missing or damaged one, which names nobody."""
    try:
        content = jsonfile.read_object(file, _LARGEST)
    except (OSError, Damaged):
        return None
    pid, texts = content.get("pid"), [content.get(name, "") for name in ("host", "boot", "started", "nonce")]
    if type(pid) is not int or not 0 < pid < 1 << 31 or not all(isinstance(text, str) for text in texts):
        return None
    host, boot, started, nonce = texts
    return Owner(host, boot, pid, started, nonce, bool(content.get("released")))


def _stamp(file: Path) -> float:
    try:
        return file.lstat().st_mtime
    except OSError:
        return 0.0


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
