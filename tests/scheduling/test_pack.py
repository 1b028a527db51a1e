"""Files that a study takes along to a Ray cluster: all that it needs there, and no others."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from p2p_dist.scheduling.submit_ray import pack
from tests.conftest import TINY_STUDY

ROOT = Path(__file__).parents[2]
BELONGS = (
    "p2p_dist/__init__.py",
    "p2p_dist/cli/__init__.py",
    "p2p_dist/cli/main.py",
    "p2p_dist/data/__init__.py",
    "p2p_dist/data/tasks/__init__.py",
    "p2p_dist/data/tasks/mine.py",
    "p2p_dist/report/__init__.py",
    "p2p_dist/report/template.html",
    "configs/studies/mine.yaml",
    "configs/models/mine.yaml",
)
LIES_ABOUT = (
    "p2p_dist/.git/config",
    "p2p_dist/.git/hooks/hook.py",
    "p2p_dist/.env",
    "p2p_dist/.venv/lib/python3.11/site-packages/torch/__init__.py",
    "p2p_dist/another_environment/pyvenv.cfg",
    "p2p_dist/another_environment/lib/python3.11/site-packages/torch/__init__.py",
    "p2p_dist/runs/tiny/study.yaml",
    "p2p_dist/old-runs/tiny/eval/0123456789ab/result.json",
    "p2p_dist/old-runs/tiny/code.py",
    "p2p_dist/__pycache__/cli.cpython-311.pyc",
    "p2p_dist/data/__pycache__/cli.py",
    "p2p_dist/data/rows.jsonl",
    "p2p_dist/data/train.parquet",
    "p2p_dist/data/hub_cache/script.py",
    "p2p_dist/data/cli.py~",
    "p2p_dist/data/.#cli.py",
    "configs/.git/config",
    "configs/studies/rows.jsonl",
    "configs/studies/.#mine.yaml",
    "configs/studies/tiny/study.yaml",
    "configs/runs/study.yaml",
    "configs/token.yaml",
)


def packed(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir()}


@pytest.fixture
def littered(tmp_path: Path) -> Path:
    """A checkout as people keep them."""
    for name in (*BELONGS, *LIES_ABOUT):
        path = tmp_path / "checkout" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    with (tmp_path / "checkout" / "p2p_dist" / "data" / "model.safetensors").open("wb") as weights:
        os.truncate(weights.fileno(), 3 << 30)  # a hole on disk, and six times what Ray takes
    outside = tmp_path / "home"
    outside.mkdir()
    for name in ("__init__.py", "secret.py", "token.yaml"):
        (outside / name).write_text("secret")
    (tmp_path / "checkout" / "p2p_dist" / "linked").symlink_to(outside)
    (tmp_path / "checkout" / "configs" / "linked").symlink_to(outside)
    (tmp_path / "checkout" / "p2p_dist" / "data" / ".#tasks.py").symlink_to("nobody@nowhere")  # how Emacs locks a file
    (tmp_path / "checkout" / "configs" / "models" / ".#mine.yaml").symlink_to("nobody@nowhere")
    return tmp_path / "checkout"


def test_nothing_that_lies_about_goes_to_the_cluster(littered: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("the study")
    pack(tmp_path / "pack", tmp_path / "mine.yaml", littered / "p2p_dist", littered / "configs")
    assert packed(tmp_path / "pack") == {*BELONGS, "study.yaml"}
    assert (tmp_path / "pack" / "study.yaml").read_text() == "the study"


def test_linked_files_go_as_what_they_link_to(littered: Path, tmp_path: Path) -> None:
    """Some installers link every file of a package from a store of theirs."""
    (tmp_path / "store.py").write_text("x = 1")
    (littered / "p2p_dist" / "cli" / "main.py").unlink()
    (littered / "p2p_dist" / "cli" / "main.py").symlink_to(tmp_path / "store.py")
    pack(tmp_path / "pack", tmp_path / "store.py", littered / "p2p_dist", littered / "configs")
    found = tmp_path / "pack" / "p2p_dist" / "cli" / "main.py"
    assert (found.is_symlink(), found.read_text()) == (False, "x = 1")


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pack of this very package."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "tiny.yaml").write_text(TINY_STUDY)
    pack(folder / "pack", folder / "tiny.yaml", ROOT / "p2p_dist", ROOT / "configs")
    return folder / "pack"


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="not a checkout: what belongs to the package is not known")
def test_everything_of_the_repository_is_in_the_pack(own: Path) -> None:
    listed = subprocess.run(
        ["git", "ls-files", "p2p_dist", "configs"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert set(listed.stdout.split()) - packed(own) == set()
    assert sum(path.stat().st_size for path in own.rglob("*") if path.is_file()) < 5e6


def test_the_pack_plans_the_study_by_itself(own: Path, with_data: Path) -> None:
    code = "import p2p_dist; print(p2p_dist.__file__); from p2p_dist.cli.main import app; app()"
    line = [sys.executable, "-c", code, "plan", "study.yaml"]
    done = subprocess.run(line, cwd=own, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == str(own / "p2p_dist" / "__init__.py")
    assert "3 runs, 0 of 3 done" in done.stdout
