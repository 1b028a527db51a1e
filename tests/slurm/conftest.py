"""One Slurm for all tests of this folder, and the results that a study has without it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import TINY_STUDY
from tests.e2e.test_study import cli
from tests.outcomes import results
from tests.slurm.machines import Machines

LONG = (
    TINY_STUDY.replace("[none, p2p]", "none")
    .replace("exclude: [{attack: none, defense: p2p}]\n", "")
    .replace("epochs: 1", "epochs: 60")
)


@pytest.fixture(scope="session")
def expected(tmp_path_factory: pytest.TempPathFactory, data_root: Path) -> tuple[Path, dict[str, bytes]]:
    """(study file, results of an undisturbed run). Every worker has two cores, here and there, or its sums would round
    otherwise."""
    folder = tmp_path_factory.mktemp("local")
    (folder / "study.yaml").write_text(LONG)
    for nodes in (1, 2):
        (folder / f"{nodes}.yaml").write_text(f"name: pairs of cores\nnodes: {nodes}\ncpus_per_node: 2\nmemory_gb: 4\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("P2P_DIST_DATA", str(data_root))
        done = cli(folder / "study.yaml", folder / "runs", "--backend", "local", "--cluster", str(folder / "1.yaml"))
    assert done.returncode == 0, done.stderr
    return folder / "study.yaml", results(folder / "runs")


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory, data_root: Path) -> Iterator[Machines]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("P2P_DIST_DATA", str(data_root))
        with Machines(tmp_path_factory.mktemp("slurm")) as machines:
            yield machines


@pytest.fixture(autouse=True)
def empty_queue(request: pytest.FixtureRequest) -> Iterator[None]:
    """No test meets the jobs of one that failed."""
    yield
    request.getfixturevalue("cluster").ctl("scancel", "--user=root", "--signal=KILL", "--full")
    request.getfixturevalue("cluster").ctl("scancel", "--user=root")
