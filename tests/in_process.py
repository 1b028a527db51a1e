"""Studies and jobs in one process, by the code of the command line and of a worker, where no process is the subject.

`cli` runs a command line here: jobs of one rank run one after the other in this process, which has torch loaded;
groups of several ranks are started as ever. `python -m tests.in_process run STUDY ...` is such a controller as a
process of its own. With TEST_HOLD=STEP:FILE the first training that has made this step writes its folder into the file
and waits until `FILE.go` is there.
"""

import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, ClassVar

import pytest
from typer.testing import CliRunner

from p2p_dist import registry
from p2p_dist.cli.main import app
from p2p_dist.report import page
from p2p_dist.scheduling import process
from p2p_dist.scheduling.backend import ProcessGroup
from p2p_dist.scheduling.backends.local import LocalBackend
from p2p_dist.worker.__main__ import Worker
from tests.studies import arguments

HOLD = "TEST_HOLD"


class Killed(BaseException):
    """Raised in a job: it ends there, with the code of SIGKILL."""


class InProcessBackend(LocalBackend):
    """Jobs of one rank in this process: in a worker that stays if the controller keeps workers, else in a fresh one."""

    before_job: ClassVar[Callable[[int], None]] = staticmethod(lambda number: None)
    """Called with the number of every job, from 0, before it starts."""

    def __init__(self, *options: Any):
        super().__init__(*options)
        self._worker = Worker()

    def start(self, group: ProcessGroup) -> str:
        if group.ranks > 1:
            return super().start(group)
        number = len(self._groups) + len(self._codes)
        self.before_job(number)
        code = run_job(self._worker if group.service else Worker(), group)
        if code != 0:
            self._worker = Worker()
        self._codes[str(number)] = code
        return str(number)


class InProcessSlot:
    """Takes the place of a `WorkerSlot`: jobs in this process, by a worker that stays where it has that choice."""

    def __init__(self) -> None:
        self._worker, self._code = Worker(), 0

    def start(self, group: ProcessGroup, environment: Mapping[str, str]) -> None:
        """Do the job."""
        self._code = run_job(self._worker if group.service else Worker(), group)

    def poll(self) -> int:
        """The exit code of the job."""
        return self._code

    def stop(self) -> None:
        """Nothing is left running."""


def run_job(worker: Worker, group: ProcessGroup) -> int:
    """Run a job of one rank with the log, environment, threads and signal handlers that its process would have."""
    import torch

    process.note_host(group.log, 0, 1)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1)}
    threads = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch, group.log.open("a", buffering=1) as log:
        for name, value in group.environment.items():
            patch.setenv(name, value)
        torch.set_num_threads(group.cpus)
        with redirect_stdout(log), redirect_stderr(log):
            try:
                return worker.run(group.command[3:])
            except Killed:
                return -signal.SIGKILL
            except Exception:  # noqa: BLE001  # the end of a worker's process
                traceback.print_exc()
                return 1
            finally:
                torch.set_num_threads(threads)
                for number, handler in handlers.items():
                    signal.signal(number, handler)


@contextmanager
def backend(before_job: Callable[[int], None] | None = None, report: bool = True) -> Iterator[None]:
    """While the block runs, every backend of this process is the one above; `report` says if reports are written."""
    load = registry.load

    def load_backend(kind: str, name: str, code: str | None = None) -> Any:
        return InProcessBackend if kind == "backends" else load(kind, name, code)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "load", load_backend)
        if before_job is not None:
            patch.setattr(InProcessBackend, "before_job", staticmethod(before_job))
        if not report:
            patch.setattr(page, "write_report", lambda folder, *_: folder.path / "report" / "index.html")
        yield


def cli(
    study: Path,
    runs: Path,
    *options: str,
    verb: str = "run",
    report: bool = False,
    before_job: Callable[[int], None] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run a command line in this process. Raises what it raises. The report of a `run` takes longer than the study, and
    is written with `report` alone."""
    words = arguments(study, runs, *options, verb=verb)
    with backend(before_job, report or verb != "run"):
        done = CliRunner().invoke(app, words)
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return subprocess.CompletedProcess(words, done.exit_code, done.stdout, done.stderr)


@contextmanager
def at_step(step: int, action: Callable[[Path], object]) -> Iterator[None]:
    """While the block runs: `action` is called once, with the folder of the first training of this process that has
    written this step down."""
    from p2p_dist.training.observer import FolderObserver

    write, called = FolderObserver.line, []

    def line(observer: FolderObserver, run: int, written: dict[str, Any]) -> None:
        write(observer, run, written)
        if written["step"] == step and not called:
            called.append(step)
            action(observer.targets[run].path)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FolderObserver, "line", line)
        yield


def kill(folder: Path) -> None:
    """End the job here."""
    raise Killed


def _hold(file: Path, training: Path) -> None:
    """Wait at this file, unless a training of another process does."""
    note = file.with_name(f"{file.name}.{os.getpid()}")
    note.write_text(str(training))
    try:
        os.link(note, file)
    except FileExistsError:
        return
    while not file.with_name(f"{file.name}.go").exists():
        time.sleep(0.05)


def main() -> None:
    """The command line, with the backend above."""
    step, _, file = os.environ.get(HOLD, "").partition(":")
    with backend(), at_step(int(step), lambda folder: _hold(Path(file), folder)) if file else nullcontext():
        app(sys.argv[1:])


if __name__ == "__main__":
    main()
