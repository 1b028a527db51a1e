"""Calls of Slurm's commands."""

import os
import shlex
import subprocess
from collections.abc import Mapping, Sequence

from p2p_dist.errors import user_error
from p2p_dist.scheduling.submissions import Submission

_SECONDS = 120.0


def ask(call: Sequence[str], environment: Mapping[str, str] | None = None) -> str:
    """Run a command and return its output. Raises UserError E133 with what Slurm reports, E131 where it is missing."""
    try:
        done = subprocess.run(
            call, capture_output=True, text=True, check=False, timeout=_SECONDS, env=dict(environment or os.environ)
        )
    except FileNotFoundError as error:
        fix = "run the command on a login node of the cluster"
        raise user_error("E131", f"no {call[0]} on the PATH", shlex.join(call[:3]), fix) from error
    except subprocess.TimeoutExpired as error:
        what = f"{call[0]} has not answered for {_SECONDS:.0f} s"
        raise user_error("E133", what, shlex.join(call[:3]), "run `sinfo` to see whether Slurm is up") from error
    if done.returncode != 0:
        message = "".join(char for char in done.stderr.strip() if char.isprintable() or char == "\n")
        fix = "run `sinfo` to see partitions and limits"
        raise user_error("E133", f"{call[0]} says: {message}", shlex.join(call[:3]), fix)
    return done.stdout.strip()


def is_active(job: Submission) -> bool:
    """True while a job, or a task of its array, is in the queue."""
    call = ["squeue", *_cluster_option(job), "--noheader", "--format=%A %F", f"--user={os.getuid()}"]
    return any(job.job in line.split() for line in ask(call).splitlines())


def cancel(job: Submission, at_once: bool) -> None:
    """End a job: running ones write a checkpoint first, within the script's 240 s, unless `at_once`.

    Requeueing is switched off before, or the script would requeue itself as before a time limit.
    """
    ask(["scontrol", *_cluster_option(job), "update", f"JobId={job.job}", "Requeue=0"])
    if at_once:
        ask(["scancel", *_cluster_option(job), job.job])
        return
    ask(["scancel", *_cluster_option(job), "--state=PENDING", job.job])
    if is_active(job):
        ask(["scancel", *_cluster_option(job), "--state=RUNNING", "--batch", "--signal=TERM", job.job])


def _cluster_option(job: Submission) -> list[str]:
    return [f"--clusters={job.cluster}"] if job.cluster else []
