"""Studies through the command line, in processes that are started as a user starts them, and what they leave."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

MARKERS = ("result.json", "adapter_model.safetensors", "manifest.json")
ONE_CORE = Path(__file__).with_name("one_core.yaml")
"""A cluster of one core: the same sums on every machine, and little lost where others compute beside the tests."""
LONG_OPTIONS = ("attack=none", "defense=none", "--backend", "local", "--checkpoint-every", "20")
"""Options of the study `undisturbed`."""
PATIENCE = 240.0
"""Seconds until an event that must come counts as missing; no test lasts longer for it."""


@dataclass(frozen=True)
class FinishedStudy:
    """A study that was carried out once and is shared by tests, none of which changes its files."""

    file: Path
    runs: Path
    process: subprocess.CompletedProcess[str]

    def copy_runs(self, folder: Path) -> Path:
        """Copy the runs folder for a test that changes it."""
        return Path(shutil.copytree(self.runs, folder / "runs"))


def arguments(study: Path, runs: Path, *options: str, verb: str = "run") -> list[str]:
    """Words that follow `p2p-dist`; the last `--cluster` counts."""
    cluster = ("--cluster", str(ONE_CORE)) if verb == "run" else ()
    return [verb, str(study), "--runs-dir", str(runs), *cluster, *options]


def command(study: Path, runs: Path, *options: str, verb: str = "run") -> list[str]:
    """The command line of a study."""
    return [sys.executable, "-m", "p2p_dist", *arguments(study, runs, *options, verb=verb)]


def cli(study: Path, runs: Path, *options: str, verb: str = "run") -> subprocess.CompletedProcess[str]:
    """Run a command line as a user does, from the interpreter's start to its end."""
    return subprocess.run(
        command(study, runs, *options, verb=verb), capture_output=True, text=True, check=False, timeout=2 * PATIENCE
    )


def wait_for(condition: Callable[[], object], seconds: float = PATIENCE) -> None:
    """Wait until a condition holds. Raises TimeoutError."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError
        time.sleep(0.05)


def processes_naming(text: str) -> dict[int, str]:
    """Command lines of the living processes, this one apart, that have `text` in it."""
    lines = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            line = (folder / "cmdline").read_text().replace("\0", " ")
            state = (folder / "stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if text in line and state != "Z" and int(folder.name) != os.getpid():
            lines[int(folder.name)] = line
    return lines


def workers_of(runs: Path) -> set[int]:
    """Process ids of the workers of the studies in this folder."""
    return {pid for pid, line in processes_naming(str(runs)).items() if "p2p_dist.worker" in line}


def trained_steps(runs: Path) -> int:
    """The last step that the only training in this folder has written down."""
    lines = [line for path in runs.rglob("train/*/metrics.jsonl") for line in path.read_text().splitlines()]
    return int(json.loads(lines[-1])["step"]) if lines else 0


def exits(runs: Path, key: str) -> list[object]:
    """A field of the end of every attempt."""
    return [json.loads(path.read_text())[key] for path in runs.rglob("exit.json")]


def logs(runs: Path) -> str:
    """Logs of all attempts."""
    return "".join(path.read_text() for path in sorted(runs.rglob("log")))


def inodes(runs: Path) -> dict[str, tuple[int, int]]:
    """Identity and time of every result by its path; they change when it is written again."""
    return {
        str(path.relative_to(runs)): (path.stat().st_ino, path.stat().st_mtime_ns)
        for path in runs.rglob("*")
        if path.name in MARKERS
    }
