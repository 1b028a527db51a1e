"""Client of a Ray cluster's jobs."""

from typing import TYPE_CHECKING

from p2p_dist.errors import user_error
from p2p_dist.scheduling.submissions import Submission

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

ACTIVE = ("PENDING", "RUNNING")
"""States of a job that has not ended."""


def connect(address: str) -> "JobSubmissionClient":
    """Connect to the dashboard at `address`. Raises UserError E140 when no cluster answers."""
    from ray.job_submission import JobSubmissionClient

    try:
        return JobSubmissionClient(address)
    except (ConnectionError, RuntimeError) as error:
        fix = (
            "name the dashboard's address, such as http://127.0.0.1:8265; for a cluster with a token set "
            "RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH"
        )
        what = f"no Ray cluster answers: {str(error).splitlines()[0]}"
        raise user_error("E140", what, f"--address {address}", fix) from error


def is_active(job: Submission) -> bool:
    """True while the cluster has the job pending or running. Raises UserError E140."""
    client = connect(job.address or "")
    known = {each.submission_id: each.status.value for each in client.list_jobs()}
    return known.get(job.job) in ACTIVE


def cancel(job: Submission) -> None:
    """Ask the job to stop; it writes checkpoints first. Raises UserError E140."""
    connect(job.address or "").stop_job(job.job)


def logs(job: Submission) -> str:
    """Output of the job. Raises UserError E140, E145 when the cluster has forgotten the job."""
    try:
        return str(connect(job.address or "").get_job_logs(job.job))
    except RuntimeError as error:
        what = f"The Ray cluster has no log of {job.job}"
        fix = "name a run: `p2p-dist logs STUDY RUN` reads its files"
        raise user_error("E145", what, f"--address {job.address}", fix) from error
