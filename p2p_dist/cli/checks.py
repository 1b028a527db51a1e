"""Checks of this machine, each with what was measured and what to do if that does not suffice."""

import importlib.util
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from p2p_dist import assets
from p2p_dist.errors import UserError
from p2p_dist.planning.cluster import this_machine
from p2p_dist.scheduling import ray_local_cluster

FLOORS = {
    "torch": (2, 11),
    "transformers": (5, 17),
    "peft": (0, 21),
    "accelerate": (1, 15),
    "ray": (2, 60),
    "datasets": (5, 2),
}
OPTIONAL = {"deepspeed": (0, 19), "bitsandbytes": (0, 50)}
_FREE_GB = 2.0
_SOCKET_PATH = 107


@dataclass(frozen=True)
class Check:
    """Result of one check."""

    name: str
    ok: bool
    value: str
    fix: str = ""

    def to_json(self) -> dict[str, object]:
        """The check as `doctor --json` prints it."""
        return {"name": self.name, "ok": self.ok, "found": self.value, "fix": self.fix}

    def line(self) -> str:
        """The check as `doctor` prints it."""
        hint = f". Try: {self.fix}" if self.fix and not self.ok else ""
        return f"{'ok  ' if self.ok else 'FAIL'} {self.name}: {self.value}{hint}"


def run_checks() -> list[Check]:
    """All checks, in order. Takes a few seconds, most of them for importing torch."""
    groups: list[Callable[[], Iterator[Check]]] = [_python, _libraries, _devices, _storage, _inputs, _ray]
    return [check for group in groups for check in group()]


def _python() -> Iterator[Check]:
    yield Check("python", sys.version_info >= (3, 11), sys.version.split()[0], "install Python 3.11 or newer")


def _libraries() -> Iterator[Check]:
    for name, floor in (FLOORS | OPTIONAL).items():
        try:
            installed = version(name)
        except PackageNotFoundError:
            note = " (only some studies need it)" if name in OPTIONAL else ""
            yield Check(name, name in OPTIONAL, f"not installed{note}", f"pip install {name}")
            continue
        numbers = tuple(int(part) for part in installed.split("+")[0].split(".")[:2])
        yield Check(name, numbers >= floor, installed, f"install {name}>={'.'.join(map(str, floor))}")


def _devices() -> Iterator[Check]:
    try:
        machine = this_machine()
    except UserError as error:
        yield Check("hardware", False, error.problems[0].what, error.problems[0].fix)
        return
    yield Check("hardware", True, f"{machine.cpus_per_node} cores, {machine.gpus_per_node} GPUs")
    if importlib.util.find_spec("torch"):
        import torch

        from p2p_dist.modeling.base import resolve_dtype

        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        yield Check(
            "precision",
            True,
            f"dtype auto means {str(resolve_dtype('auto', device)).removeprefix('torch.')} on {device.type}",
        )
        visible = torch.cuda.device_count()
        fix = "install a build of torch for this driver"
        yield Check("gpus in torch", visible == machine.gpus_per_node, f"torch sees {visible}", fix)


def _storage() -> Iterator[Check]:
    cache = assets.cache_dir()
    for name in assets.ASSETS:
        yield Check(
            f"asset {name}",
            True,
            "cached" if assets.is_cached(name) else f"not cached; fetched on first use into {cache}",
        )
    for name, folder in {"cache": cache, "here": Path.cwd()}.items():
        existing = next(path for path in [folder, *folder.parents] if path.exists())
        free = shutil.disk_usage(existing).free / 1e9
        fix = f"free at least {_FREE_GB:g} GB"
        yield Check(f"free disk ({name})", free > _FREE_GB, f"{free:.1f} GB at {existing}", fix)


def _inputs() -> Iterator[Check]:
    root = os.environ.get("P2P_DIST_DATA")
    if root is None:
        yield Check("P2P_DIST_DATA", True, "not set; tasks come from the hub or the embedded asset")
    else:
        tasks = sorted(path.name for path in Path(root).iterdir() if path.is_dir()) if Path(root).is_dir() else []
        yield Check(
            "P2P_DIST_DATA",
            bool(tasks),
            f"{root} with {', '.join(tasks) or 'no folders'}",
            "name a folder with <task>/train.jsonl and test.jsonl",
        )


def _ray() -> Iterator[Check]:
    longest = (
        Path("/tmp")
        / f"{ray_local_cluster.PREFIX}{os.getpid()}-xxxxxxxx"
        / "session_2026-01-01_00-00-00_000000_0000000"
        / "sockets"
        / "plasma_store"
    )
    yield Check(
        "ray socket path",
        len(str(longest)) < _SOCKET_PATH,
        f"{len(str(longest))} of {_SOCKET_PATH} characters",
        "use a shorter temporary folder",
    )
    yield Check("temporary folder", os.access("/tmp", os.W_OK), tempfile.gettempdir(), "let this user write to /tmp")
    attached = os.environ.get("RAY_ADDRESS")
    yield Check(
        "ray address",
        True,
        f"RAY_ADDRESS={attached} is ignored by the local backend" if attached else "RAY_ADDRESS is not set",
    )
