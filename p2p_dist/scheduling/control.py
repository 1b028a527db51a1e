"""Cancelling a study and finding its logs, wherever it runs: Slurm, a Ray cluster, or a controller on this host."""

import os
import signal
from dataclasses import replace
from pathlib import Path

from p2p_dist.config.expand import AXES
from p2p_dist.config.training_axis import TRAINING
from p2p_dist.errors import Exit, printable, user_error
from p2p_dist.results import confined, lease, records
from p2p_dist.results.logs import tail
from p2p_dist.results.resolved import read_resolved
from p2p_dist.results.rundir import RunDir
from p2p_dist.scheduling import ray_jobs, slurm, submissions
from p2p_dist.scheduling.submissions import Submission


def cancel(folder: RunDir, at_once: bool = False, address: str | None = None) -> str:
    """Stop a study where it runs and return a sentence about it. Running trainings write a checkpoint first, except on
    Slurm `at_once`.

    Raises UserError E147 (exit code 4) when a controller on another host has the study, and those of Slurm and Ray.
    """
    job = _newest(folder, address)
    if job is not None and job.kind == "slurm" and slurm.is_active(job):
        slurm.cancel(job, at_once)
        return f"{job.label} asked to stop"
    if job is not None and job.kind == "ray" and ray_jobs.is_active(job):
        ray_jobs.cancel(job)
        return f"{job.label} asked to stop"
    owners = lease.holders(folder.path)
    elsewhere = [owner for owner in owners if not owner.is_here]
    for owner in owners:
        if owner.is_here:
            os.kill(owner.pid, signal.SIGTERM)
    if elsewhere:
        names = ", ".join(f"process {owner.pid} on {owner.host}" for owner in elsewhere)
        fix = f"run the same command on {elsewhere[0].host}"
        raise user_error("E147", f"The study is run by {names}, not by this host", str(folder.path), fix, Exit.OWNED)
    if not owners:
        return "nothing to cancel: no job and no controller of this study is running"
    return f"asked to stop: {', '.join(f'process {owner.pid}' for owner in owners)}"


def study_log(folder: RunDir, lines: int, address: str | None = None) -> tuple[str, list[str]]:
    """(where it is, last lines) of the controller's log of a submitted study, or of the newest attempt of a study that
    was run by hand. Raises UserError E145 when there is none."""
    job = _newest(folder, address)
    if job is not None and job.kind == "ray":
        return job.label, _printable(ray_jobs.logs(job), lines)
    if job is not None and (
        paths := [
            path
            for path in (*folder.slurm_logs.glob(f"{job.job}.out"), *folder.slurm_logs.glob(f"{job.job}_*.out"))
            if confined.kind_of(path) == "file"
        ]
    ):
        return _of(max(paths, key=_modified), lines)
    return _newest_attempt([*folder.path.glob("*/*/attempts/*/log")], folder, lines)


def run_log(folder: RunDir, run: str, lines: int) -> tuple[str, list[str]]:
    """(where it is, last lines) of the newest attempt of a run: a stage id, or labels of the grid such as
    `attack=badnets,seed=0`. Raises UserError E145 for an unknown run and for one that was never started."""
    stages = _stages(folder, run)
    # A cohort's attempts are in the folder of its first stage; they name all stages.
    logs = [
        placed.parent / "log" for placed in folder.path.glob("*/*/attempts/*/placement.json") if stages & _named(placed)
    ]
    return _newest_attempt(logs, folder, lines)


def _newest(folder: RunDir, address: str | None) -> Submission | None:
    """Newest submission; `address` replaces the recorded dashboard."""
    recorded = submissions.read(folder)
    if not recorded:
        return None
    return replace(recorded[-1], address=address) if address else recorded[-1]


def _stages(folder: RunDir, run: str) -> set[str]:
    if confined.kind_of(folder.resolved) == "missing":
        what, fix = "The study was never started", "run `p2p-dist run` or `p2p-dist submit`"
        raise user_error("E145", what, str(folder.path), fix)
    resolved = read_resolved(folder)
    if any(stage["id"] == run for stage in resolved["stages"]):
        return {run}
    labels = dict(part.partition("=")[::2] for part in run.split(","))
    matching = [each for each in resolved["runs"] if labels.items() <= each["cell"].items()]
    if not matching or not labels.keys() <= {*AXES, TRAINING}:
        what, fix = f"No run or stage is named {run!r}", "name a stage id, or labels such as attack=badnets,seed=0"
        raise user_error("E145", what, str(folder.path), fix)
    return {matching_id for each in matching for matching_id in each["stages"]}


def _named(placement: Path) -> set[str]:
    """Stages of an attempt; none where its record is damaged."""
    return set(records.read(placement, records.Placement, []).get("stages", ()))


def _newest_attempt(logs: list[Path], folder: RunDir, lines: int) -> tuple[str, list[str]]:
    logs = [log for log in logs if confined.kind_of(log) == "file"]
    if not logs:
        raise user_error("E145", "There is no log yet", str(folder.path), "run `p2p-dist status` to see what waits")
    return _of(max(logs, key=_modified), lines)


def _of(path: Path, lines: int) -> tuple[str, list[str]]:
    return str(path), tail(path, lines)


def _modified(path: Path) -> float:
    return path.stat().st_mtime


def _printable(text: str, lines: int) -> list[str]:
    return [printable(line, keep="\t") for line in text.splitlines()[-lines:]]
