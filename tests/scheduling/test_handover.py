"""Variables for workers: named, taken once from a private file, and never in a text that anybody keeps."""

import subprocess
import sys
from pathlib import Path

import pytest

from p2p_dist.errors import UserError
from p2p_dist.results.rundir import RunDir
from p2p_dist.scheduling import environment, handover


def test_take_reads_a_private_file_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKEN", "se cret\n'")
    path = handover.write(RunDir(tmp_path / "runs" / "study"), ["TOKEN"])
    assert path.stat().st_mode & 0o777 == 0o600
    assert path in RunDir(tmp_path / "runs" / "study").leftovers(), "the next controller removes one that nobody took"
    assert handover.take(path) == {"TOKEN": "se cret\n'"}
    assert not path.exists()
    with pytest.raises(UserError, match=r"E146.*No such file"):
        handover.take(path)


def test_write_without_a_writable_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"E146.*Cannot write into the run folder.*Try: "):
        handover.write(RunDir(tmp_path / "file" / "study"), [])


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("HF_TOKEN=hf_secret", "expects the name of a variable"),
        ("", "expects the name of a variable"),
        ("A-B", "expects the name of a variable"),
        ("NOT_SET_HERE", "NOT_SET_HERE is not set here"),
        ("RAY_AUTH_TOKEN", "set by the scheduler itself"),
        ("SLURM_JOB_ID", "set by the scheduler itself"),
        ("P2P_DIST_LEASE", "set by the scheduler itself"),
    ],
)
def test_checked_refuses_what_cannot_be_handed_over(name: str, words: str) -> None:
    with pytest.raises(UserError, match=rf"E137.*{words}") as error:
        environment.checked([name])
    assert "hf_secret" not in str(error.value)


def test_ray_driver_becomes_the_command_with_the_variables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`p2p-dist run` of a study that is missing is the command; its environment is read from /proc while it starts."""
    monkeypatch.setenv("TOKEN", "secret")
    path = handover.write(RunDir(tmp_path), ["TOKEN"])
    (tmp_path / "sitecustomize.py").write_text(
        "import os, sys\nif 'p2p_dist.scheduling.ray_driver' not in sys.orig_argv:\n"
        "    print(os.environ['TOKEN'], os.environ['P2P_DIST_ENV'], sys.orig_argv[-3:])\n"
    )
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{Path(__file__).parents[2]}")
    monkeypatch.delenv("TOKEN")
    line = [sys.executable, "-m", "p2p_dist.scheduling.ray_driver", str(path), "run", "no_such_study"]
    done = subprocess.run(line, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.stdout.splitlines()[0] == "secret TOKEN ['p2p_dist', 'run', 'no_such_study']", done.stderr
    assert done.returncode == 2
    assert "no_such_study" in done.stderr
    again = subprocess.run(line, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert (again.returncode, "error[E146]" in again.stderr) == (2, True)
