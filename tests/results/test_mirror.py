"""Mirrors hold what the files hold. Each is written by its tracker's own package, where that is installed, and read
back."""

import importlib.util
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import pytest

from p2p_dist import registry
from p2p_dist.errors import UserError
from p2p_dist.results import mirror
from p2p_dist.results.collect import Collected, read_study
from p2p_dist.results.rundir import RunDir
from tests.results.test_index import SMALL
from tests.synthetic import collapse, make_study

ONE = SMALL.replace("seed: [0, 1]", "seed: 0").replace("  - {name: addsent, rate: 0.05}\n", "")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, data_root: Path) -> RunDir:
    return make_study(tmp_path_factory.mktemp("made"), data_root, ONE)


def copied(folder: RunDir, name: str, place: Path) -> int:
    kind = registry.load("mirrors", name)
    if importlib.util.find_spec(kind.module) is None:
        pytest.skip(f"{kind.package} is not installed")
    return mirror.copy(folder, read_study(folder, alive=False), kind, place)


class Lines(mirror.Mirror):
    """A mirror that can be read by eye."""

    package = module = "json"

    def write(self, curve: mirror.Curve) -> None:
        (self.place / f"{curve.name}.json").write_text(json.dumps([dict(curve.config), curve.steps, dict(curve.rates)]))


class NotHere(Lines):
    package = module = "no_such_tracker"


def test_every_curve_and_rate_is_handed_over_again_and_again(folder: RunDir, tmp_path: Path) -> None:
    found = read_study(folder, alive=False)
    for _ in range(2):
        assert mirror.copy(folder, found, Lines, tmp_path / "m") == 4
    files = {path.name: json.loads(path.read_text()) for path in (tmp_path / "m").glob("*.json")}
    assert set(files) == {
        f"rotten_tomatoes-tiny-{attack}-{defense}-0.json"
        for attack in ("none", "badnets")
        for defense in ("none", "p2p")
    }
    for run in found.runs:
        _, steps, rates = files["-".join(run.cell.values()) + ".json"]
        lines = folder.at("train", run.ids["train"] or "").all_metrics()
        assert [(step, values["train/loss"]) for step, values in steps] == [
            (line["step"], line["loss"]) for line in lines
        ]
        assert rates == {name: rate["rate"] for name, rate in run.rates.items()}


KILLED = """
import os, signal, sys
from pathlib import Path
from p2p_dist.results import mirror
from p2p_dist.results.collect import read_study
from p2p_dist.results.rundir import RunDir

class Dies(mirror.Mirror):
    package = module = "json"
    written = 0
    def write(self, curve):
        (self.place / f"{curve.name}.json").write_text("half of it")
        Dies.written += 1
        if Dies.written == 2:
            os.kill(os.getpid(), signal.SIGKILL)

folder = RunDir(Path(sys.argv[1]))
mirror.copy(folder, read_study(folder, alive=False), Dies, Path(sys.argv[2]))
"""


@pytest.mark.process
def test_a_mirror_that_is_killed_loses_nothing(folder: RunDir, tmp_path: Path) -> None:
    """The study's files are as they were, also while they were read, and the next mirror is whole."""
    study = {path: path.read_bytes() for path in folder.path.rglob("*") if path.is_file()}
    place = tmp_path / "m"
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(folder.path), str(place)], cwd=Path(__file__).parents[2], check=False
    )
    assert done.returncode == -signal.SIGKILL
    assert len(list(place.glob("*.json"))) == 2
    assert {path: path.read_bytes() for path in folder.path.rglob("*") if path.is_file()} == study
    assert mirror.copy(folder, read_study(folder, alive=False), Lines, place) == 4
    assert [len(json.loads(path.read_text())) for path in place.glob("*.json")] == [3] * 4


def test_a_study_that_runs_is_followed_to_its_end(folder: RunDir, tmp_path: Path) -> None:
    """Done runs are there at once; one that has begun comes when it is done, and once only."""
    study = RunDir(shutil.copytree(folder.path, tmp_path / "study"))
    last = read_study(study, alive=False).runs[-1]
    result = study.at("eval", last.ids["eval"] or "").result
    content, looks = result.read_bytes(), []
    result.unlink()

    def look() -> Collected:
        looks.append({path.name for path in (tmp_path / "m").glob("*.json")})
        if len(looks) == 3:
            result.write_bytes(content)
        return read_study(study, alive=True)

    assert mirror.follow(study, look, Lines, tmp_path / "m", seconds=0.0) == 4
    assert list(map(len, looks)) == [0, 3, 3]
    assert len(list((tmp_path / "m").glob("*.json"))) == 4


def test_a_collapsed_model_is_tagged(folder: RunDir, tmp_path: Path) -> None:
    study = RunDir(shutil.copytree(folder.path, tmp_path / "study"))
    collapse(study.at("eval", read_study(study, alive=False).runs[0].ids["eval"] or "").result)
    mirror.copy(study, read_study(study, alive=False), Lines, tmp_path / "m")
    tags = [json.loads(path.read_text())[0].get("collapsed") for path in (tmp_path / "m").glob("*.json")]
    assert sorted(tags, key=str) == [None, None, None, "yes"]


def test_what_is_in_the_way_stays(folder: RunDir, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(UserError, match="E513"):
        mirror.copy(folder, read_study(folder, alive=False), Lines, tmp_path)
    assert (tmp_path / "thesis.txt").exists()


def test_nothing_tells_a_tracker_to_write_elsewhere(
    folder: RunDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Lured(Lines):
        environment: ClassVar[Mapping[str, str | None]] = {"SEND_TO": None, "REPORT": "false"}

        def write(self, curve: mirror.Curve) -> None:
            assert ("SEND_TO" in os.environ, os.environ["REPORT"]) == (False, "false")

    monkeypatch.setenv("SEND_TO", "https://elsewhere.example")
    monkeypatch.setenv("REPORT", "true")
    assert mirror.copy(folder, read_study(folder, alive=False), Lured, tmp_path / "m") == 4


def test_a_missing_package_is_named_with_the_command(folder: RunDir, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"E512.*pip install no_such_tracker"):
        mirror.copy(folder, read_study(folder, alive=False), NotHere, tmp_path / "m")
    assert not (tmp_path / "m").exists()


def test_tensorboard(folder: RunDir, tmp_path: Path) -> None:
    assert copied(folder, "tensorboard", tmp_path / "m") == 4
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "m" / "rotten_tomatoes-tiny-badnets-p2p-0"), size_guidance={"tensors": 0})
    events.Reload()
    run = next(
        run
        for run in read_study(folder, alive=False).runs
        if run.cell["attack"] == "badnets" and run.cell["defense"] == "p2p"
    )
    assert len(events.Tensors("train/loss")) == 20
    assert float(events.Tensors("rates/asr_ext")[0].tensor_proto.float_val[0]) == pytest.approx(
        run.rates["asr_ext"]["rate"]
    )


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of libraries that MLflow uses
@pytest.mark.filterwarnings("ignore:.*noload")
def test_mlflow(folder: RunDir, tmp_path: Path) -> None:
    assert copied(folder, "mlflow", tmp_path / "m") == 4
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{tmp_path}/m/mlflow.db")
    experiment = client.get_experiment_by_name("synthetic")
    runs = client.search_runs([experiment.experiment_id])
    assert len(runs) == 4
    assert {run.data.tags["attack"] for run in runs} == {"none", "badnets"}
    assert all(len(client.get_metric_history(run.info.run_id, "train/loss")) == 20 for run in runs)


def test_wandb_stays_offline(folder: RunDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert copied(folder, "wandb", tmp_path / "m") == 4
    assert len(list((tmp_path / "m").rglob("*.wandb"))) == 4


def test_trackio(folder: RunDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as elsewhere:
        elsewhere.setblocking(False)
        monkeypatch.setenv("TRACKIO_SERVER_URL", f"http://127.0.0.1:{elsewhere.getsockname()[1]}/?write_token=x")
        assert copied(folder, "trackio", tmp_path / "m") == 4
        with pytest.raises(BlockingIOError):
            elsewhere.accept()  # nobody came
    assert shutil.which("sqlite3") or list((tmp_path / "m").rglob("synthetic*.db"))
