"""A study as a job of a Ray cluster, by launch/ray_job.sh: attached to, survived by a killed client, ended with its own
exit code."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from p2p_dist.errors import Exit
from p2p_dist.results.rundir import RunDir
from p2p_dist.scheduling import ray_jobs, submissions
from tests import secret_probe
from tests.cli.test_main import invoke
from tests.conftest import TINY_STUDY, failing_study
from tests.ray_head import Head, ray_head
from tests.studies import wait_for

pytestmark = pytest.mark.usefixtures("with_data")
SCRIPT = Path(__file__).parents[2] / "launch" / "ray_job.sh"


@pytest.fixture(scope="module")
def probe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return secret_probe.install(tmp_path_factory.mktemp("probe"))


@pytest.fixture(scope="module")
def head(probe: Path) -> Iterator[Head]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", f"{probe}:{os.environ.get('PYTHONPATH', '')}")
        with ray_head() as head:
            yield head


@pytest.fixture
def cluster(head: Head) -> str:
    """Its dashboard's address."""
    return head.dashboard


def script(*arguments: str, dashboard: str | None = None) -> subprocess.Popen[str]:
    """Started as a user does: by its path, from another folder, with `p2p-dist` on the PATH."""
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        **({"RAY_DASHBOARD": dashboard} if dashboard else {}),
    }
    return subprocess.Popen(
        [SCRIPT, *arguments], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd="/"
    )


def submit(address: str, study: Path, runs: Path) -> subprocess.Popen[str]:
    return script(str(study), "--runs-dir", str(runs), dashboard=address)


@pytest.mark.slow("starts a Ray cluster and studies on it")
def test_killed_client_attached_second_and_real_exit_code(cluster: str, tmp_path: Path) -> None:
    study, runs = tmp_path / "study.yaml", tmp_path / "runs"
    study.write_text(failing_study(tmp_path))
    first = submit(cluster, study, runs)
    wait_for(lambda: list(runs.rglob("metrics.jsonl")), 150)
    os.kill(first.pid, signal.SIGKILL)
    first.communicate()
    time.sleep(1)
    second = submit(cluster, study, runs)
    _, said = second.communicate(timeout=240)
    assert "runs already; attached to it" in said
    assert "E206" in said, "the study's own words come through"
    assert second.returncode == Exit.SOME_FAILED, "the table of one run has none of its texts"
    assert len(list(runs.rglob("result.json"))) == 5
    study.write_text(TINY_STUDY)
    third = submit(cluster, study, runs)
    _, said = third.communicate(timeout=240)
    assert "submitted" in said
    assert third.returncode == Exit.OK, said
    fourth = submit(cluster, study, runs)
    _, said = fourth.communicate(timeout=120)
    assert fourth.returncode == Exit.OK, "nothing left to do"


@pytest.mark.slow("starts a Ray cluster and studies on it")
def test_a_cancelled_study_checkpoints_and_leaks_no_variable(
    head: Head, probe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Controller and workers have the variable; no file, log or detail of the job has its value."""
    study, runs = tmp_path / "study.yaml", tmp_path / "runs"
    study.write_text(TINY_STUDY.replace("epochs: 1", "epochs: 200"))
    (probe / "started").unlink()
    monkeypatch.setenv(secret_probe.NAME, secret_probe.VALUE)
    monkeypatch.setenv("RAY_DASHBOARD", head.dashboard)
    first = script(str(study), "--runs-dir", str(runs), "--env", secret_probe.NAME)
    wait_for(lambda: list(runs.rglob("metrics.jsonl")), 240)
    code, said, _ = invoke("logs", str(runs / "tiny"))
    assert (code, "tiny: 0 of 3 runs done" in said) == (Exit.OK, True), said
    code, said, _ = invoke("cancel", str(runs / "tiny"))
    assert (code, said.endswith(" asked to stop\n")) == (Exit.OK, True), said
    _, error = first.communicate(timeout=240)
    assert "Stopped on request; all running jobs were checkpointed" in error
    (job,) = submissions.read(RunDir(runs / "tiny"))
    details = " ".join(map(str, ray_jobs.connect(head.dashboard).list_jobs()))
    assert job.job in details
    assert job.variables == (secret_probe.NAME,)
    for module in ("p2p_dist.worker", "p2p_dist"):
        hosts = secret_probe.hosts_with_secret(probe, module)
        assert hosts[True], module
        assert not hosts[False], module
    assert secret_probe.VALUE not in details + error
    assert not secret_probe.leaks([head.folder, runs])
    assert not list(RunDir(runs / "tiny").leftovers())
    assert {json.loads(path.read_text())["code"] for path in runs.rglob("exit.json")} >= {75}


@pytest.mark.parametrize("named", ["by RAY_DASHBOARD", "by --address"])
def test_no_cluster_is_said_in_words(tmp_path: Path, named: str) -> None:
    (tmp_path / "study.yaml").write_text(TINY_STUDY)
    asked = (str(tmp_path / "study.yaml"), "--runs-dir", str(tmp_path / "runs"))
    nobody = "http://127.0.0.1:9"
    done = (
        script(*asked, dashboard=nobody)
        if named == "by RAY_DASHBOARD"
        else script(*asked, "--address", nobody, dashboard="http://127.0.0.1:10")
    )
    _, said = done.communicate(timeout=60)
    assert done.returncode == Exit.USAGE
    assert "error[E140]: no Ray cluster answers" in said
    assert "--address http://127.0.0.1:9" in said


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--help"], Exit.OK, "Submit a study to a Ray cluster and follow it"),
        ([], Exit.USAGE, "Missing argument"),
        (["no_such_study"], Exit.USAGE, "no_such_study"),
    ],
)
def test_asked_wrongly_it_says_how(arguments: list[str], code: Exit, words: str) -> None:
    done = script(*arguments)
    said = "".join(done.communicate(timeout=60))
    assert (done.returncode, words in said, "Traceback" in said) == (code, True, False), said
