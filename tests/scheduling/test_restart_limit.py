"""A study that is started again and again, and gets no further, stops asking for it."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from typer.testing import CliRunner

from p2p_dist.cli.main import app
from p2p_dist.config.graph import Graph, Stage
from p2p_dist.errors import Exit, UserError, user_error
from p2p_dist.results.rundir import RunDir
from p2p_dist.scheduling import restart_limit, signals


@pytest.fixture
def run(
    study_file: Callable[[], Path], tmp_path: Path, with_data: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[int, str]]:
    """`p2p-dist run` of a study that is asked to stop before anything is started: (exit code, what was said)."""

    @contextmanager
    def at_once() -> Iterator[Callable[[], bool]]:
        yield lambda: True

    monkeypatch.setattr(signals, "stop_requests", at_once)
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)

    def again(*options: str, verb: str = "run") -> tuple[int, str]:
        done = CliRunner().invoke(app, [verb, str(study_file()), "--runs-dir", str(tmp_path / "runs"), *options])
        return done.exit_code, done.stderr

    return again


def test_restart_limit_third_fruitless_start_is_no_requeue(run: Callable[..., tuple[int, str]]) -> None:
    """The third start in a row that brings nothing is no requeue."""
    ends = [run("--backend", "local") for _ in range(4)]
    assert [code for code, _ in ends] == [Exit.REQUEUE, Exit.REQUEUE, Exit.SOME_FAILED, Exit.SOME_FAILED]
    assert ["E418" in said for _, said in ends] == [False, False, True, True]
    assert all("E412" in said for _, said in ends), "why it ended is said too"
    assert "The last 3 restarts made no progress" in ends[2][1]
    assert run(verb="data")[0] == Exit.OK
    assert run("--backend", "local")[0] == Exit.REQUEUE, "its rows are there now: that is progress"


def test_every_slurm_job_has_a_count_of_its_own(
    run: Callable[..., tuple[int, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tasks of an array begin side by side where none has got any further yet; that is no row of starts."""
    codes = []
    for job in ("17", "18", "19", "20", "17", "17"):
        monkeypatch.setenv("SLURM_JOB_ID", job)
        codes.append(run("--backend", "local", "--share")[0])
    assert codes == [Exit.REQUEUE] * 5 + [Exit.SOME_FAILED]
    monkeypatch.delenv("SLURM_JOB_ID")
    assert [run("--backend", "local", "--share")[0] for _ in range(4)] == [Exit.REQUEUE] * 4, (
        "by hand, nobody can tell them apart"
    )


def lost() -> UserError:
    return user_error("E417", "no store", exit_code=Exit.REQUEUE)


def start(folder: RunDir, graph: Graph, error: UserError | None = None) -> Exit:
    try:
        with restart_limit.count_restarts(folder, graph, shared=False):
            if error is not None:
                raise error
    except UserError as raised:
        return raised.exit_code
    return Exit.OK


def test_progress_an_end_in_order_and_a_damaged_count_begin_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    stage = Stage("train", {"seed": 0})
    graph, folder = Graph({stage.id: stage}), RunDir(tmp_path)
    folder.write_specs(graph)
    assert [start(folder, graph, lost()) for _ in range(3)] == [Exit.REQUEUE, Exit.REQUEUE, Exit.SOME_FAILED]
    (folder.stage(stage).checkpoints / "step_000010").mkdir(parents=True)
    assert [start(folder, graph, lost()) for _ in range(2)] == [Exit.REQUEUE] * 2
    assert start(folder, graph) == Exit.OK
    assert not list(tmp_path.glob("starts/*"))
    assert [start(folder, graph, lost()) for _ in range(2)] == [Exit.REQUEUE] * 2
    (record,) = tmp_path.glob("starts/*.json")
    for damage in ("", "[]", json.dumps({"number": "many", "reached": ""})):
        record.write_text(damage)
        assert start(folder, graph, lost()) == Exit.REQUEUE
    assert start(folder, graph, user_error("E411", "taken over", exit_code=Exit.OWNED)) == Exit.OWNED


def test_stop_signal_before_any_job_started_stops(
    study_file: Callable[[], Path], tmp_path: Path, with_data: Path
) -> None:
    """Weights may take long to fetch, and Slurm may warn of the time limit meanwhile."""
    warned = (
        "import os, signal; from p2p_dist.scheduling import prepare; prepare.fetch = lambda *_: "
        "os.kill(os.getpid(), signal.SIGUSR1)"
    )
    line = [
        sys.executable,
        "-c",
        f"{warned}; from p2p_dist.cli.main import app; app()",
        "run",
        str(study_file()),
        "--runs-dir",
        str(tmp_path),
    ]
    done = subprocess.run([*line, "--backend", "local"], capture_output=True, text=True, check=False)
    assert (done.returncode, "E412" in done.stderr) == (Exit.REQUEUE, True), done.stderr
    assert not list(tmp_path.rglob("attempts")), "no worker was started"
