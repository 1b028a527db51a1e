"""Messages of `submit ray` when a cluster does not take a job, or loses it."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from p2p_dist.errors import UserError
from p2p_dist.scheduling import submit_ray


class Cluster:
    """Answers as Ray's job client does: refuses so often, then takes the job."""

    def __init__(self, refusals: int, why: str):
        self.refusals, self.why, self.taken = refusals, why, list[dict[str, Any]]()

    def submit_job(self, **job: Any) -> None:
        if self.refusals:
            self.refusals -= 1
            raise RuntimeError(self.why)
        self.taken.append(
            {**job, "packed": sorted(path.name for path in Path(job["runtime_env"]["working_dir"]).iterdir())}
        )


AGENT = "Request failed with status code 500: No available agent to submit job"


@pytest.fixture
def study(tmp_path: Path) -> Path:
    (tmp_path / "mine.yaml").write_text("name: mine")
    return tmp_path / "mine.yaml"


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(submit_ray.time, "sleep", lambda seconds: None)


def test_a_cluster_that_was_just_started_is_asked_again(study: Path) -> None:
    cluster = Cluster(3, AGENT)
    submit_ray._start(cluster, "p2p-mine", study, ["python", "-m", "p2p_dist", "run", "a b.yaml"])
    (job,) = cluster.taken
    assert (job["entrypoint"], job["submission_id"]) == ("python -m p2p_dist run 'a b.yaml'", "p2p-mine")
    assert job["packed"] == ["configs", "p2p_dist", "study.yaml"]


def test_submit_without_an_agent_names_the_likely_reason(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cluster without an agent is given up with the likely reason."""
    monkeypatch.setattr(submit_ray, "AGENT_SECONDS", 0.0)
    with pytest.raises(UserError, match=r"E142.*No available agent.*--dashboard-agent-listen-port"):
        submit_ray._start(Cluster(10**6, AGENT), "p2p-mine", study, ["python"])


def test_any_other_refusal_is_told_at_once(study: Path) -> None:
    cluster = Cluster(1, "working_dir package is too large")
    with pytest.raises(UserError, match=r"E142.*too large.*ray status") as told:
        submit_ray._start(cluster, "p2p-mine", study, ["python"])
    assert "52365" not in str(told.value)
    assert not cluster.taken


@pytest.mark.parametrize("code", [0, 3, 75])
def test_the_exit_code_is_the_studys(code: int) -> None:
    assert (
        submit_ray._exit_code(
            SimpleNamespace(get_job_info=lambda name: SimpleNamespace(driver_exit_code=code)), "p2p-mine"
        )
        == code
    )


def test_a_job_without_an_exit_code_is_told_with_its_state() -> None:
    lost = SimpleNamespace(driver_exit_code=None, status=SimpleNamespace(value="FAILED"), message="its node died")
    with pytest.raises(UserError, match=r"E141.*p2p-mine is FAILED: its node died"):
        submit_ray._exit_code(SimpleNamespace(get_job_info=lambda name: lost), "p2p-mine")
