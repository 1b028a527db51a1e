"""The scheduler loop: start what is ready, look what ended, carry out what the policy decides.

Every decision is made in `planning`; this file only acts. What is done is read off the run folder, so a scheduler that
is killed and started again goes on where it was.
"""

import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from p2p_dist.planning.jobs import Job
from p2p_dist.planning.policy import after_exit
from p2p_dist.results import atomic
from p2p_dist.results.rundir import RunDir
from p2p_dist.scheduling import lease
from p2p_dist.scheduling.backend import Backend, Gang

POLL_SECONDS = 0.2
REFRESH_SECONDS = 5.0


@dataclass(frozen=True)
class Failure:
    """A job that was given up, with the last lines of its log."""

    job: Job
    reason: str
    log: Path
    tail: list[str]


@dataclass
class State:
    """Where the jobs of a study are. The progress view reads it."""

    waiting: list[Job]
    running: dict[str, Job] = field(default_factory=dict)
    done: list[Job] = field(default_factory=list)
    failed: list[Failure] = field(default_factory=list)
    blocked: list[Job] = field(default_factory=list)
    attempts: dict[str, int] = field(default_factory=dict)
    logs: dict[str, Path] = field(default_factory=dict)


class Scheduler:
    """Runs jobs on a backend, at most `slots` at a time with `threads` cores each."""

    def __init__(self, folder: RunDir, backend: Backend, slots: int, threads: int, gpus: int, checkpoint_every: int):
        self.folder, self.backend = folder, backend
        self.slots, self.threads, self.gpus, self.checkpoint_every = slots, threads, gpus, checkpoint_every

    def run(self, jobs: Sequence[Job], look: Callable[[State], None] = lambda state: None) -> State:
        """Carry out all jobs that can be. Stops every worker before an interrupt goes on."""
        state = State(list(jobs))
        finished: set[str] = set()
        refreshed = 0.0
        try:
            while state.waiting or state.running:
                self._start_ready(state, finished)
                self._reap(state, finished)
                if time.monotonic() - refreshed > REFRESH_SECONDS:
                    lease.refresh(self.folder.lease)
                    refreshed = time.monotonic()
                look(state)
                time.sleep(POLL_SECONDS)
        finally:
            for name in state.running:
                self.backend.stop(name)
        look(state)
        return state

    def _start_ready(self, state: State, finished: set[str]) -> None:
        lost = {id_ for failure in state.failed for id_ in failure.job.stages} | {id_ for job in state.blocked for id_ in job.stages}
        for job in list(state.waiting):
            if job.needs & lost:
                state.waiting.remove(job)
                state.blocked.append(job)
            elif job.needs <= finished and len(state.running) < self.slots:
                state.waiting.remove(job)
                state.running[self._start(job, state)] = job

    def _start(self, job: Job, state: State) -> str:
        attempt = self.folder.find(job.lead).new_attempt()
        state.attempts[job.lead] = state.attempts.get(job.lead, 0) + 1
        gang = self._gang(job, attempt / "log")
        placement = {
            "started": round(time.time(), 3),
            "backend": type(self.backend).__name__,
            "cpus": gang.cpus,
            "gpus": gang.gpus,
            "command": list(gang.command),
            "stages": list(job.stages),
        }
        atomic.write_json(attempt / "placement.json", placement)
        state.logs[job.lead] = gang.log
        return self.backend.start(gang)

    def _gang(self, job: Job, log: Path) -> Gang:
        command: tuple[str, ...] = (sys.executable, "-m", "p2p_dist.worker", "--study-dir", str(self.folder.path.resolve()))
        command += ("--stages", ",".join(job.stages), "--checkpoint-every", str(self.checkpoint_every))
        threads = str(self.threads)
        environment = {
            "OMP_NUM_THREADS": threads,
            "MKL_NUM_THREADS": threads,
            "TOKENIZERS_PARALLELISM": "false",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "PYTHONUNBUFFERED": "1",
            "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
        }
        return Gang(command, log.resolve(), self.threads, self.gpus, environment)

    def _reap(self, state: State, finished: set[str]) -> None:
        for name, job in list(state.running.items()):
            code = self.backend.poll(name)
            if code is None:
                continue
            del state.running[name]
            log = state.logs[job.lead]
            atomic.write_json(log.parent / "exit.json", {"code": code, "ended": round(time.time(), 3)})
            there = all(self.folder.find(id_).is_done() for id_ in job.stages)
            decision = after_exit(code, state.attempts[job.lead], there)
            if decision.action == "done":
                finished.update(job.stages)
                state.done.append(job)
            elif decision.action == "retry":
                state.waiting.insert(0, job)
            else:
                finished.update(id_ for id_ in job.stages if self.folder.find(id_).is_done())
                state.failed.append(Failure(job, decision.reason, log, tail(log)))


def tail(log: Path, lines: int = 15) -> list[str]:
    """The last lines of a log, control characters removed."""
    if not log.is_file():
        return []
    with log.open("rb") as file:
        file.seek(0, os.SEEK_END)
        file.seek(max(0, file.tell() - 8192))
        text = file.read().decode("utf-8", "replace")
    return ["".join(char for char in line if char.isprintable() or char == "\t") for line in text.splitlines()[-lines:]]
