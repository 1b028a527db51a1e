"""Record of the cluster jobs that a study was submitted as, kept in its run folder for `cancel` and `logs`."""

import time
from dataclasses import asdict, dataclass
from typing import Literal

from pydantic import TypeAdapter, ValidationError

from p2p_dist.errors import Exit, user_error
from p2p_dist.results import atomic, confined, jsonfile
from p2p_dist.results.rundir import RunDir


@dataclass(frozen=True)
class Submission:
    """One job of a cluster."""

    kind: Literal["slurm", "ray"]
    job: str
    """Job number of Slurm, or submission id of Ray."""
    at: float
    """Time of the submission (seconds since 1970)."""
    cluster: str | None = None
    """Slurm cluster, where there are several."""
    address: str | None = None
    """Dashboard of the Ray cluster."""
    variables: tuple[str, ...] = ()
    """Names of the variables that were handed over; values are recorded nowhere."""
    setup: str | None = None
    """Setup file of a Slurm job."""

    @property
    def label(self) -> str:
        """Name of the job for people."""
        return f"Slurm job {self.job}" if self.kind == "slurm" else f"Ray job {self.job}"


_LIST = TypeAdapter(list[Submission])


def read(folder: RunDir) -> list[Submission]:
    """Submissions, oldest first. Raises UserError E144 (exit code 3) for a damaged record."""
    try:
        return _LIST.validate_python(jsonfile.read_object(folder.submissions)["submissions"])
    except FileNotFoundError:
        return []
    except (ValueError, KeyError, TypeError, ValidationError) as error:
        what = f"The record of submissions is damaged: {str(error).splitlines()[0]}"
        fix = "move the file away; running jobs are then found with `squeue` or `ray job list`"
        raise user_error("E144", what, str(folder.submissions), fix, Exit.INTEGRITY) from error


def append(folder: RunDir, submission: Submission) -> None:
    """Add a submission to the record. Raises UserError E144, OSError."""
    submissions = [*read(folder), submission]
    confined.make_folder(folder.path)
    atomic.write_json(folder.submissions, {"submissions": [asdict(each) for each in submissions]})


def now() -> float:
    """Time of a submission that is made now."""
    return round(time.time(), 3)
