"""Memory that this process may use on its host: the machine's, or less where a cgroup limits it (Slurm, containers)."""

import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

OWN_CGROUPS = Path("/proc/self/cgroup")
CGROUP_ROOT = Path("/sys/fs/cgroup")


def host_memory() -> int:
    """Bytes of memory that this process may use."""
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min([machine, *cgroup_limits(OWN_CGROUPS, CGROUP_ROOT)])


def cgroup_limits(own: Path, root: Path) -> list[int]:
    """Limits in bytes of a process's memory cgroup and of those around it, of version 1 and 2; empty where there are
    none, or they cannot be read. `own` has the form of /proc/self/cgroup, below `root` are the cgroups."""
    return [limit for file in _limit_files(_text(own), root) if (limit := _number(_text(file))) is not None]


def _limit_files(own: str, root: Path) -> Iterator[Path]:
    """Files that may hold a limit. Inside a container the path may be that of the host; its own cgroup is then the
    root."""
    for line in own.splitlines():
        controllers, _, path = line.partition(":")[2].partition(":")
        if controllers == "":
            top, name = root, "memory.max"
        elif "memory" in controllers.split(","):
            top, name = root / "memory", "memory.limit_in_bytes"
        else:
            continue
        inside = PurePosixPath(path.lstrip("/"))
        yield from (top / folder / name for folder in (inside, *inside.parents) if ".." not in folder.parts)


def _text(file: Path) -> str:
    try:
        return file.read_text()
    except OSError:
        return ""


def _number(text: str) -> int | None:
    """A limit; None for `max`, which is none. Version 1 writes a number beyond any machine instead."""
    return int(text) if text.strip().isdecimal() else None
