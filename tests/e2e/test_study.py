"""Whole studies on the tiny model, through the command line, with real worker processes."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from p2p_dist.errors import Exit
from p2p_dist.results.lease import owner
from tests.conftest import TINY_STUDY, failing_study
from tests.outcomes import assert_same, results

pytestmark = pytest.mark.usefixtures("with_data")


def command(study: Path, runs: Path, *more: str, verb: str = "run") -> list[str]:
    return [sys.executable, "-m", "p2p_dist", verb, str(study), "--runs-dir", str(runs), *more]


def cli(study: Path, runs: Path, *more: str, verb: str = "run") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(study, runs, *more, verb=verb), capture_output=True, text=True, check=False, timeout=300
    )


def inodes(runs: Path) -> dict[str, tuple[int, int]]:
    return {
        str(path): (path.stat().st_ino, path.stat().st_mtime_ns)
        for path in runs.rglob("*")
        if path.name in ("result.json", "adapter_model.safetensors", "manifest.json")
    }


@pytest.fixture(scope="module")
def finished(
    tmp_path_factory: pytest.TempPathFactory, data_root: Path
) -> tuple[Path, Path, subprocess.CompletedProcess[str]]:
    """A finished study under Ray: (study file, runs folder, what was said)."""
    folder = tmp_path_factory.mktemp("finished")
    study = folder / "study.yaml"
    study.write_text(TINY_STUDY)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("P2P_DIST_DATA", str(data_root))
        return study, folder / "runs", cli(study, folder / "runs", "--json")


def test_three_runs_end_with_a_table_and_a_report(finished: Any) -> None:
    _, runs, done = finished
    assert done.returncode == Exit.OK, done.stderr
    facts = json.loads(done.stdout)
    assert (facts["runs"], facts["done"]) == (3, 3)
    clean, attacked, defended = facts["table"]
    assert clean["rates"]["ca_ext"]["n"] == 20
    assert "asr_ext" not in clean["rates"]
    assert attacked["asr_floor"]["n"] == attacked["rates"]["asr_ext"]["n"] == 10
    assert {"asr_nobt", "asr_raw_target", "ca_mapped"} <= set(defended["rates"])
    report = runs / "tiny" / "report"
    assert (report / "index.html").stat().st_size > 5000
    assert {"rates_rotten_tomatoes", "schedule", "loss"} <= {path.stem for path in (report / "plots").glob("*.svg")}
    assert not (report / "tables" / "failures.md").exists()
    assert not list(runs.rglob(".tmp-*"))
    assert owner(runs / "tiny" / "lease") is None


def test_local_gives_the_same_bytes_as_ray(finished: Any, tmp_path: Path) -> None:
    study, runs, _ = finished
    done = cli(study, tmp_path, "--backend", "local")
    assert done.returncode == Exit.OK, done.stderr
    assert_same(tmp_path, results(runs))


def test_again_does_nothing_and_says_so(finished: Any) -> None:
    study, runs, _ = finished
    before = inodes(runs)
    done = cli(study, runs)
    assert done.returncode == Exit.OK
    assert "3 of 3 done" in done.stderr
    assert "jobs to do" not in done.stderr
    assert inodes(runs) == before


def test_finished_study_is_reported_without_running(finished: Any, tmp_path: Path) -> None:
    """What is asked for is reported also when all of it is there."""
    study, theirs, _ = finished
    runs = shutil.copytree(theirs, tmp_path / "runs")
    assert cli(study, runs, "attack=none", "defense=none").returncode == Exit.USAGE, "two runs would leave the report"
    for options, count in ((["attack=none", "defense=none", "--replace"], 1), ([], 3)):
        done = cli(study, runs, *options, "--json")
        assert (done.returncode, f"{count} of {count} done" in done.stderr) == (Exit.OK, True)
        assert len(json.loads(done.stdout)["table"]) == count


def test_more_seeds_reuse_what_is_there(finished: Any) -> None:
    study, runs, _ = finished
    plan = json.loads(cli(study, runs, "seed=[0, 1]", "--json", verb="plan").stdout)
    assert sum(run["done"] for run in plan["runs"]) == 3
    assert plan["counts"]["train"] == {"stages": 6, "saved_by_sharing": 4, "done": 3}


def test_more_suites_score_again_and_train_nothing(finished: Any, tmp_path: Path) -> None:
    study, theirs, _ = finished
    runs = shutil.copytree(theirs, tmp_path / "runs")
    adapters = {name: stamp for name, stamp in inodes(runs).items() if "adapter" in name}
    done = cli(study, runs, "suites=[cue_grid, imitation]", "--replace", "--backend", "local", "--json")
    assert done.returncode == Exit.OK, done.stderr
    assert {name: stamp for name, stamp in inodes(runs).items() if "adapter" in name} == adapters
    _, attacked, defended = [run["rates"] for run in json.loads(done.stdout)["table"]]
    assert {name: attacked[name]["n"] for name in attacked if "." in name} == {
        f"{rate}.{name}": 10
        for rate in ("asr_ext", "asr_mapped", "asr_control")
        for name in ("fake_answer", "ignore_previous")
    }
    cells = {f"grid_asr_mapped.{cell}" for cell in ("both", "prefix_only", "cue_only", "neither")}
    assert cells | {"grid_ca_mapped.cue_only", "asr_ext.repeated_prefix", "asr_control.repeated_prefix"} <= set(
        defended
    )
    assert defended["grid_asr_mapped.both"] == defended["asr_mapped"]
    assert cli(study, runs, verb="data").returncode == Exit.OK


def test_a_deleted_result_is_made_again_without_training(finished: Any) -> None:
    study, runs, _ = finished
    before = results(runs)
    adapters = {name: stamp for name, stamp in inodes(runs).items() if "adapter" in name}
    next(iter(runs.rglob("result.json"))).unlink()
    assert cli(study, runs, "--backend", "local").returncode == Exit.OK
    assert_same(runs, before)
    assert {name: stamp for name, stamp in inodes(runs).items() if "adapter" in name} == adapters


def test_a_damaged_result_is_named_set_aside_and_made_again(finished: Any) -> None:
    study, runs, _ = finished
    before = results(runs)
    damaged = next(iter(runs.rglob("result.json")))
    damaged.write_bytes(damaged.read_bytes().replace(b'"k": ', b'"k": 1', 1))
    said = cli(study, runs, verb="status")
    assert said.returncode == Exit.INTEGRITY
    assert "error[E502]: damaged or edited" in said.stdout
    assert "E502" in cli(study, runs, verb="report").stderr, "a report is written from the rest"
    done = cli(study, runs, "--backend", "local")
    assert done.returncode == Exit.OK, done.stderr
    assert "set aside as result.json.damaged-" in done.stderr
    assert_same(runs, before)
    for kept in runs.rglob("result.json.damaged-*"):
        kept.unlink()
    assert cli(study, runs, verb="status").returncode == Exit.OK


def test_status_of_a_finished_study(finished: Any) -> None:
    study, runs, _ = finished
    said = cli(study, runs, verb="status")
    assert "3 of 3 done; nobody works on it" in said.stdout
    assert json.loads(cli(study, runs, "--json", verb="status").stdout)["done"] == 3


@pytest.mark.parametrize("backend", ["ray", "local"])
def test_kill_everything_and_run_again(finished: Any, tmp_path: Path, backend: str) -> None:
    """SIGKILL to the controller while a worker trains: nothing is left running, and the same command finishes."""
    study, runs, _ = finished
    controller = subprocess.Popen(
        command(study, tmp_path, "--backend", backend),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    _wait_for(lambda: list(tmp_path.rglob("metrics.jsonl")), 120)
    os.kill(controller.pid, signal.SIGKILL)
    controller.wait()
    _wait_for(lambda: not _processes_naming(str(tmp_path)), 30)
    kept = inodes(tmp_path)
    said = cli(study, tmp_path, verb="status")
    assert "nobody works on it" in said.stdout
    done = cli(study, tmp_path, "--backend", backend)
    assert done.returncode == Exit.OK, done.stderr
    assert_same(tmp_path, results(runs))
    assert kept.items() <= inodes(tmp_path).items(), "what was finished before the kill was not made again"
    assert "nobody saw its end" in (tmp_path / "tiny" / "report" / "tables" / "failures.csv").read_text()


def test_a_killed_worker_is_tried_again(finished: Any, tmp_path: Path) -> None:
    study, runs, _ = finished
    controller = subprocess.Popen(
        command(study, tmp_path), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    _wait_for(lambda: list(tmp_path.rglob("metrics.jsonl")), 120)
    workers = [pid for pid, line in _processes_naming(str(tmp_path)).items() if "p2p_dist.worker" in line]
    for pid in workers:
        os.kill(pid, signal.SIGKILL)
    _, said = controller.communicate(timeout=240)
    assert workers
    assert controller.returncode == Exit.OK, said
    assert_same(tmp_path, results(runs))
    assert any(json.loads(path.read_text())["code"] == -9 for path in tmp_path.rglob("exit.json"))
    assert "killed by signal 9" in (tmp_path / "tiny" / "report" / "tables" / "failures.csv").read_text()


def test_interrupt_stops_the_workers(finished: Any, tmp_path: Path) -> None:
    """A training that is long enough to be under way when the signal arrives."""
    study, _, _ = finished
    line = command(study, tmp_path, "train.num_train_epochs=200", "--backend", "local")
    controller = subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    _wait_for(lambda: list(tmp_path.rglob("metrics.jsonl")), 120)
    controller.send_signal(signal.SIGINT)
    _, said = controller.communicate(timeout=60)
    assert controller.returncode == 130
    assert "run the same command to continue" in said
    assert not _processes_naming(str(tmp_path))


def test_two_controllers_on_one_study(finished: Any, tmp_path: Path) -> None:
    study, _, _ = finished
    first = subprocess.Popen(
        command(study, tmp_path, "--backend", "local"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    _wait_for(lambda: owner(tmp_path / "tiny" / "lease"), 60)
    second = cli(study, tmp_path, "--backend", "local")
    assert second.returncode == Exit.OWNED
    assert f"process {first.pid} on" in second.stderr
    first.send_signal(signal.SIGINT)
    first.wait(timeout=60)


def test_a_bug_fails_one_run_and_the_study_goes_on(tmp_path: Path) -> None:
    study = tmp_path / "study.yaml"
    study.write_text(failing_study(tmp_path))
    done = cli(study, tmp_path / "runs", "--backend", "local")
    assert done.returncode == Exit.SOME_FAILED
    assert "E206" in done.stderr
    assert "2 of 3 done" in done.stderr
    said = cli(study, tmp_path / "runs", verb="status").stdout
    assert "failed   task rotten_tomatoes" in said
    assert "see " in said


def test_a_cohort_of_three_gives_three_ordinary_runs(finished: Any, tmp_path: Path) -> None:
    study, runs, _ = finished
    done = cli(study, tmp_path, "--backend", "local", "--cohort", "3")
    assert done.returncode == Exit.OK, done.stderr
    mine, theirs = results(tmp_path), results(runs)
    assert mine.keys() == theirs.keys()
    for name in (name for name in mine if name.endswith("result.json")):
        assert json.loads(mine[name])["rates"] == json.loads(theirs[name])["rates"]


def test_sst2_takes_the_place_of_the_task(finished: Any, tmp_path: Path) -> None:
    study, _, _ = finished
    done = cli(study, tmp_path, "task=sst2", "attack=none", "defense=none", "--backend", "local", "--json")
    assert done.returncode == Exit.OK, done.stderr
    assert json.loads(done.stdout)["table"][0]["cell"]["task"] == "sst2"


def _wait_for(condition: Any, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return
        time.sleep(0.05)
    raise TimeoutError


def _processes_naming(text: str) -> dict[int, str]:
    """Living processes with `text` in their command line, this one apart."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            line = (folder / "cmdline").read_text().replace("\0", " ")
            state = (folder / "stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if text in line and state != "Z" and int(folder.name) != os.getpid():
            found[int(folder.name)] = line
    return found


@pytest.mark.skipif("P2P_DIST_REAL_DATA" not in os.environ, reason="P2P_DIST_DATA was not set: no real SST-2 here")
def test_real_sst2(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("P2P_DIST_DATA", os.environ["P2P_DIST_REAL_DATA"])
    study = tmp_path / "study.yaml"
    study.write_text(
        TINY_STUDY.replace("rows: {train: 64, test: 20, reserve: 20}", "rows: {train: 200, test: null, reserve: 40}")
    )
    done = cli(study, tmp_path, "task=sst2", "--backend", "local", "--json")
    assert done.returncode == Exit.OK, done.stderr
    rates = json.loads(done.stdout)["table"][-1]["rates"]
    assert rates["ca_ext"]["n"] == 1821
    assert rates["asr_ext"]["n"] == 912, "every negative test sentence and no other"
