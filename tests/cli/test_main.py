"""The command line: quick, torch-free where it only plans, honest in its exit codes."""

import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from p2p_dist.cli.main import app
from p2p_dist.errors import Exit

VERBS = [
    "plan",
    "data",
    "paraphrases",
    "run",
    "status",
    "report",
    "query",
    "merge",
    "compare",
    "mirror",
    "list",
    "doctor",
]


def invoke(*arguments: str) -> tuple[int, str, str]:
    done = CliRunner().invoke(app, list(arguments))
    return done.exit_code, done.stdout, done.stderr


@pytest.mark.parametrize("verb", ["", *VERBS])
def test_help(verb: str) -> None:
    code, said, _ = invoke(*([verb] if verb else []), "--help")
    assert code == 0
    assert "Usage" in said


@pytest.mark.process
@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["list"], ["plan", "STUDY"]])
def test_no_torch_where_nothing_is_computed(
    arguments: list[str], study_file: Callable[[], Path], with_data: Path
) -> None:
    words = [str(study_file()) if word == "STUDY" else word for word in arguments]
    code = (
        f"import sys; sys.argv = ['p2p-dist', *{words!r}]\nfrom p2p_dist.cli.main import app\n"
        "try: app()\nexcept SystemExit: pass\nheavy = {'torch', 'transformers', 'ray', 'datasets', 'scipy', "
        "'matplotlib'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.process
def test_help_takes_less_than_half_a_second() -> None:
    assert min(_seconds([sys.executable, "-m", "p2p_dist", "--help"]) for _ in range(5)) < 0.5


def _seconds(command: list[str]) -> float:
    """Of the processor, which a busy machine does not stretch."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, capture_output=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


@pytest.mark.usefixtures("with_data")
def test_plan_in_words_and_json(study_file: Callable[[], Path], tmp_path: Path) -> None:
    code, said, _ = invoke("plan", str(study_file()), "--runs-dir", str(tmp_path))
    assert code == 0
    assert "3 runs, 0 of 3 done" in said
    code, said, _ = invoke("plan", str(study_file()), "seed=[0, 1]", "--runs-dir", str(tmp_path), "--json")
    facts = json.loads(said)
    assert len(facts["runs"]) == 6
    assert not list(tmp_path.glob("tiny")), "planning writes nothing"


def test_errors_are_words_and_codes(study_file: Callable[[str], Path], tmp_path: Path) -> None:
    code, _, said = invoke("plan", str(study_file("name: x\ntask: no\nmodle: tiny\n")))
    assert code == Exit.USAGE
    assert said.startswith("error[E101]")
    assert "Traceback" not in said
    assert invoke("plan", str(tmp_path / "missing.yaml"))[0] == Exit.USAGE
    assert invoke("status", "nothing-here", "--runs-dir", str(tmp_path))[0] == Exit.USAGE
    assert "did you mean 'models'" in invoke("list", "model")[2]
    assert invoke("run")[0] == Exit.USAGE


def test_list() -> None:
    code, said, _ = invoke("list", "--json")
    assert code == 0
    known = json.loads(said)
    assert "quickstart" in known["studies"]
    assert known["backends"] == ["local", "ray"]


@pytest.mark.torch
def test_doctor() -> None:
    code, said, _ = invoke("doctor", "--json")
    checks = {check["name"]: check for check in json.loads(said)}
    assert code == (Exit.OK if all(check["ok"] for check in checks.values()) else Exit.SOME_FAILED)
    assert checks["python"]["ok"]
    assert checks["torch"]["ok"]


@pytest.mark.process
def test_shell_completion_is_there() -> None:
    asked = {**os.environ, "_P2P_DIST_COMPLETE": "complete_bash", "COMP_WORDS": "p2p-dist re", "COMP_CWORD": "1"}
    done = subprocess.run([sys.executable, "-m", "p2p_dist"], env=asked, capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["report"]


@pytest.mark.process
def test_a_closed_pipe_is_quiet() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-m", "p2p_dist", "list"], stdout=writing, stderr=subprocess.PIPE, text=True, check=False
    )
    os.close(writing)
    assert "Traceback" not in done.stderr


def test_another_run_is_never_allowed_as_a_change() -> None:
    code, _, said = invoke("run", "quickstart", "--allow-change", "stage")
    assert code == Exit.USAGE
    assert "'stage' is not one of" in said
