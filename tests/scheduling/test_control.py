"""`cancel` and `logs` of studies on this host; tests/slurm and tests/e2e/test_ray_job.py have the others."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from p2p_dist.config.graph import Stage
from p2p_dist.errors import Exit
from p2p_dist.results.rundir import RunDir
from p2p_dist.scheduling import submissions
from tests.cli.test_main import invoke

HOLD = """
import signal, sys, threading
from pathlib import Path
from p2p_dist.results import lease
asked = threading.Event()
signal.signal(signal.SIGTERM, lambda *_: asked.set())
with lease.hold(Path(sys.argv[1])):
    print("held", flush=True)
    asked.wait(60)
"""


def _stages() -> dict[str, Stage]:
    """Two runs of three stages each, by a name for tests."""
    stages: dict[str, Stage] = {}
    for number in range(2):
        rows = stages[f"data{number}"] = Stage("data", {"run": number})
        adapter = stages[f"train{number}"] = Stage("train", {}, {"rows": rows.id})
        stages[f"eval{number}"] = Stage("eval", {}, {"rows": rows.id, "adapter": adapter.id})
    return stages


STAGES = _stages()


@pytest.fixture
def folder(tmp_path: Path) -> RunDir:
    """A study of two runs; the trainings of both were one job with two attempts, and one run has an evaluation."""
    folder = RunDir(tmp_path / "runs" / "tiny")
    cells = [
        {"attack": attack, "seed": "0", "task": "t", "model": "m", "defense": "none"} for attack in ("none", "badnets")
    ]
    runs = [
        {
            "cell": cell,
            "stages": [STAGES[f"{kind}{number}"].id for kind in ("data", "train", "eval")],
            "train": STAGES[f"train{number}"].id,
            "eval": STAGES[f"eval{number}"].id,
            "floor": None,
        }
        for number, cell in enumerate(cells)
    ]
    folder.path.mkdir(parents=True)
    stages = [stage.to_json() for stage in STAGES.values()]
    folder.resolved.write_text(json.dumps({"name": "tiny", "description": "", "runs": runs, "stages": stages}))
    for kind, lead, number, members in (
        ("train", "train0", 1, ["train0", "train1"]),
        ("train", "train0", 2, ["train0", "train1"]),
        ("eval", "eval1", 1, ["eval1"]),
    ):
        attempt = folder.stage(STAGES[lead]).attempts / f"{number:02d}"
        attempt.mkdir(parents=True)
        (attempt / "placement.json").write_text(json.dumps({"stages": [STAGES[name].id for name in members]}))
        (attempt / "log").write_text("".join(f"{lead} {number} line {line}\x1b[2J\n" for line in range(3)))
        os.utime(attempt / "log", (number, number + (kind == "eval")))
    os.utime(folder.stage(STAGES["eval1"]).attempts / "01" / "log", (9, 9))
    return folder


def logs(folder: RunDir, *arguments: str) -> tuple[int, list[str], str]:
    code, out, error = invoke("logs", str(folder.path), *arguments)
    return code, out.splitlines(), error


@pytest.fixture
def holder(folder: RunDir) -> Iterator[subprocess.Popen[str]]:
    """A controller of the study."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(folder.lease)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def test_logs_shows_the_newest_attempt(folder: RunDir) -> None:
    code, lines, place = logs(folder)
    assert (code, lines) == (Exit.OK, [f"eval1 1 line {line}\\x1b[2J" for line in range(3)])
    assert place.strip().endswith(f"eval/{STAGES['eval1'].id}/attempts/01/log")


@pytest.mark.parametrize(
    ("run", "first"),
    [
        ("train1", "train0 2 line 2\\x1b[2J"),
        ("attack=none", "train0 2 line 2\\x1b[2J"),
        ("attack=badnets,seed=0", "eval1 1 line 2\\x1b[2J"),
    ],
)
def test_logs_of_a_run_shows_its_newest_attempt(folder: RunDir, run: str, first: str) -> None:
    """A member of a cohort has its log in the folder of the first one."""
    name = STAGES[run].id if run in STAGES else run
    assert logs(folder, name, "--lines", "1")[:2] == (Exit.OK, [first])


@pytest.mark.parametrize("run", ["nobody", "attack=nobody", "shape=round", "attack"])
def test_logs_of_an_unknown_run_is_refused(folder: RunDir, run: str) -> None:
    code, _, error = logs(folder, run)
    assert (code, "error[E145]: No run or stage is named" in error) == (Exit.USAGE, True), error


def test_logs_before_the_first_attempt_says_so(folder: RunDir) -> None:
    assert "error[E145]: There is no log yet" in logs(folder, STAGES["data0"].id)[2]
    assert "error[E145]" in invoke("logs", str(folder.path.parent))[2]


def test_cancel_stops_the_controller_on_this_host(folder: RunDir, holder: subprocess.Popen[str]) -> None:
    code, out, _ = invoke("cancel", str(folder.path))
    assert (code, out) == (Exit.OK, f"asked to stop: process {holder.pid}\n")
    assert holder.wait(timeout=30) == 0
    assert invoke("cancel", str(folder.path))[:2] == (
        Exit.OK,
        "nothing to cancel: no job and no controller of this study is running\n",
    )


def test_cancel_of_a_controller_elsewhere_names_it(folder: RunDir, holder: subprocess.Popen[str]) -> None:
    (file,) = folder.lease.glob("*.json")
    file.write_text(json.dumps({**json.loads(file.read_text()), "host": "node7"}))
    code, _, error = invoke("cancel", str(folder.path))
    assert code == Exit.OWNED
    assert f"error[E147]: The study is run by process {holder.pid} on node7, not by this host" in error
    assert holder.poll() is None
    os.kill(holder.pid, signal.SIGTERM)


@pytest.mark.parametrize("content", ["", "{}", '{"submissions": [{"kind": "pbs", "job": "1", "at": 0}]}', "[]"])
def test_a_damaged_record_of_submissions_is_named(folder: RunDir, content: str) -> None:
    folder.submissions.write_text(content)
    code, _, error = invoke("cancel", str(folder.path))
    assert (code, "error[E144]" in error) == (Exit.INTEGRITY, True)


def test_submissions_are_read_back_in_order(folder: RunDir) -> None:
    made = [
        submissions.Submission("slurm", "17", 1.5, "big", None, ("HF_TOKEN",), "/site/setup.sh"),
        submissions.Submission("ray", "p2p-x", 2.5, None, "http://127.0.0.1:8265"),
    ]
    for each in made:
        submissions.append(folder, each)
    assert submissions.read(folder) == made
