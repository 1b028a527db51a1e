"""Whole studies on the tiny model, through the command line: in processes of their own where these are the subject
(`cli`), else in this one (`in_process.cli`)."""

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest

from p2p_dist.errors import Exit
from p2p_dist.results.lease import owner
from tests import in_process
from tests.conftest import TINY_STUDY, failing_study
from tests.outcomes import assert_same, results
from tests.studies import FinishedStudy, cli, command, exits, inodes, processes_naming, wait_for, workers_of

pytestmark = pytest.mark.usefixtures("with_data")


def test_three_runs_end_with_a_table_and_a_report(finished: FinishedStudy) -> None:
    """Rates with their counts, tables and plots; nothing temporary and no lease is left."""
    facts = json.loads(finished.process.stdout)
    assert (facts["runs"], facts["done"]) == (3, 3)
    clean, attacked, defended = facts["table"]
    assert clean["rates"]["ca_ext"]["n"] == 20
    assert "asr_ext" not in clean["rates"]
    assert attacked["asr_floor"]["n"] == attacked["rates"]["asr_ext"]["n"] == 10
    assert {"asr_nobt", "asr_raw_target", "ca_mapped"} <= set(defended["rates"])
    report = finished.runs / "tiny" / "report"
    assert (report / "index.html").stat().st_size > 5000
    assert {"rates_rotten_tomatoes", "schedule", "loss"} <= {path.stem for path in (report / "plots").glob("*.svg")}
    assert not (report / "tables" / "failures.md").exists()
    assert not list(finished.runs.rglob(".tmp-*"))
    assert owner(finished.runs / "tiny" / "lease") is None


def test_local_gives_the_same_bytes_as_ray(finished: FinishedStudy, tmp_path: Path) -> None:
    """And so does one process for everything, on which other tests rest."""
    for run, folder in ((cli, tmp_path / "local"), (in_process.cli, tmp_path / "here")):
        done = run(finished.file, folder, "--backend", "local")
        assert done.returncode == Exit.OK, done.stderr
        assert_same(folder, results(finished.runs))


def test_again_does_nothing_and_says_so(finished: FinishedStudy, tmp_path: Path) -> None:
    runs = finished.copy_runs(tmp_path)
    before = inodes(runs)
    done = in_process.cli(finished.file, runs)
    assert done.returncode == Exit.OK
    assert "3 of 3 done" in done.stderr
    assert "jobs to do" not in done.stderr
    assert inodes(runs) == before


def test_finished_study_is_reported_without_running(finished: FinishedStudy, tmp_path: Path) -> None:
    """What is asked for is reported also when all of it is there."""
    runs = finished.copy_runs(tmp_path)
    fewer = ("attack=none", "defense=none")
    refused = in_process.cli(finished.file, runs, *fewer)
    assert refused.returncode == Exit.USAGE, "two runs would leave the report"
    for options, count in (([*fewer, "--replace"], 1), ([], 3)):
        done = in_process.cli(finished.file, runs, *options, "--json", report=True)
        assert (done.returncode, f"{count} of {count} done" in done.stderr) == (Exit.OK, True)
        assert len(json.loads(done.stdout)["table"]) == count


def test_more_seeds_reuse_what_is_there(finished: FinishedStudy) -> None:
    plan = json.loads(in_process.cli(finished.file, finished.runs, "seed=[0, 1]", "--json", verb="plan").stdout)
    assert sum(run["done"] for run in plan["runs"]) == 3
    assert plan["counts"]["train"] == {"stages": 6, "saved_by_sharing": 4, "done": 3}


def test_more_suites_score_again_and_train_nothing(finished: FinishedStudy, tmp_path: Path) -> None:
    runs = finished.copy_runs(tmp_path)
    adapters = {name: stamp for name, stamp in inodes(runs).items() if "adapter" in name}
    options = ("suites=[cue_grid, imitation]", "--replace", "--backend", "local", "--json")
    done = in_process.cli(finished.file, runs, *options)
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
    assert in_process.cli(finished.file, runs, verb="data").returncode == Exit.OK


def test_a_deleted_result_is_made_again_without_training(finished: FinishedStudy, tmp_path: Path) -> None:
    runs = finished.copy_runs(tmp_path)
    adapters = {name: stamp for name, stamp in inodes(runs).items() if "adapter" in name}
    next(iter(runs.rglob("result.json"))).unlink()
    assert in_process.cli(finished.file, runs, "--backend", "local").returncode == Exit.OK
    assert_same(runs, results(finished.runs))
    assert {name: stamp for name, stamp in inodes(runs).items() if "adapter" in name} == adapters


def test_a_damaged_result_is_named_set_aside_and_made_again(finished: FinishedStudy, tmp_path: Path) -> None:
    runs = finished.copy_runs(tmp_path)
    damaged = next(iter(runs.rglob("result.json")))
    damaged.write_bytes(damaged.read_bytes().replace(b'"k": ', b'"k": 1', 1))
    status = in_process.cli(finished.file, runs, verb="status")
    assert status.returncode == Exit.INTEGRITY
    assert "error[E502]: damaged or edited" in status.stdout
    report = in_process.cli(finished.file, runs, verb="report")
    assert "E502" in report.stderr, "a report is written from the rest"
    done = in_process.cli(finished.file, runs, "--backend", "local")
    assert done.returncode == Exit.OK, done.stderr
    assert "set aside as result.json.damaged-" in done.stderr
    assert_same(runs, results(finished.runs))
    for aside in runs.rglob("result.json.damaged-*"):
        aside.unlink()
    assert in_process.cli(finished.file, runs, verb="status").returncode == Exit.OK


def test_status_of_a_finished_study(finished: FinishedStudy) -> None:
    status = in_process.cli(finished.file, finished.runs, verb="status")
    assert "3 of 3 done; nobody works on it" in status.stdout
    assert json.loads(in_process.cli(finished.file, finished.runs, "--json", verb="status").stdout)["done"] == 3


@pytest.mark.parametrize(
    "backend",
    [
        "local",
        pytest.param("ray", marks=pytest.mark.slow("starts Ray twice; a worker killed under Ray is the fast witness")),
    ],
)
def test_kill_everything_and_run_again(finished: FinishedStudy, tmp_path: Path, backend: str) -> None:
    """SIGKILL to the controller while a worker trains: nothing is left running, and the same command finishes."""
    controller = subprocess.Popen(
        command(finished.file, tmp_path, "--backend", backend),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    wait_for(lambda: list(tmp_path.rglob("metrics.jsonl")))
    os.kill(controller.pid, signal.SIGKILL)
    controller.wait()
    wait_for(lambda: not processes_naming(str(tmp_path)))
    before = inodes(tmp_path)
    assert "nobody works on it" in in_process.cli(finished.file, tmp_path, verb="status").stdout
    again = cli if backend == "ray" else in_process.cli
    done = again(finished.file, tmp_path, "--backend", backend)
    assert done.returncode == Exit.OK, done.stderr
    assert_same(tmp_path, results(finished.runs))
    assert before.items() <= inodes(tmp_path).items(), "what was finished before the kill was not made again"
    assert in_process.cli(finished.file, tmp_path, verb="report").returncode == Exit.OK
    assert "nobody saw its end" in (tmp_path / "tiny" / "report" / "tables" / "failures.csv").read_text()


def test_a_killed_worker_is_tried_again(finished: FinishedStudy, tmp_path: Path) -> None:
    """Under Ray; the report names the signal."""
    controller = subprocess.Popen(
        command(finished.file, tmp_path), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    wait_for(lambda: list(tmp_path.rglob("metrics.jsonl")))
    workers = workers_of(tmp_path)
    for pid in workers:
        os.kill(pid, signal.SIGKILL)
    _, errors = controller.communicate(timeout=480)
    assert workers
    assert controller.returncode == Exit.OK, errors
    assert_same(tmp_path, results(finished.runs))
    assert -signal.SIGKILL in exits(tmp_path, "code")
    assert "killed by signal 9" in (tmp_path / "tiny" / "report" / "tables" / "failures.csv").read_text()


def test_interrupt_stops_the_workers(finished: FinishedStudy, tmp_path: Path) -> None:
    """A training that is long enough to be under way when the signal arrives; a second controller is refused before."""
    options = ("train.num_train_epochs=400", "--backend", "local")
    line = command(finished.file, tmp_path, *options)
    controller = subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    wait_for(lambda: list(tmp_path.rglob("metrics.jsonl")))
    second = in_process.cli(finished.file, tmp_path, *options)
    controller.send_signal(signal.SIGINT)
    _, errors = controller.communicate(timeout=120)
    assert controller.returncode == 130
    assert "run the same command to continue" in errors
    assert not processes_naming(str(tmp_path))
    assert second.returncode == Exit.OWNED
    assert f"process {controller.pid} on" in second.stderr


def test_a_bug_fails_one_run_and_the_study_goes_on(tmp_path: Path) -> None:
    study = tmp_path / "study.yaml"
    study.write_text(failing_study(tmp_path))
    done = in_process.cli(study, tmp_path / "runs", "--backend", "local")
    assert done.returncode == Exit.SOME_FAILED
    assert "E206" in done.stderr
    assert "3 of 4 done" in done.stderr, "the clean model is judged on the rows of the other attacks"
    assert "not run, because they need it: " in done.stderr
    assert "eval clean model on synattack" in done.stderr
    status = in_process.cli(study, tmp_path / "runs", verb="status").stdout
    assert "failed   task rotten_tomatoes" in status
    assert "see " in status


def test_a_cohort_of_three_gives_three_ordinary_runs(finished: FinishedStudy, tmp_path: Path) -> None:
    done = in_process.cli(finished.file, tmp_path, "--backend", "local", "--cohort", "3")
    assert done.returncode == Exit.OK, done.stderr
    cohort, alone = results(tmp_path), results(finished.runs)
    assert cohort.keys() == alone.keys()
    for name in (name for name in cohort if name.endswith("result.json")):
        assert json.loads(cohort[name])["rates"] == json.loads(alone[name])["rates"]


def test_sst2_takes_the_place_of_the_task(finished: FinishedStudy, tmp_path: Path) -> None:
    options = ("task=sst2", "attack=none", "defense=none", "--backend", "local", "--json")
    done = in_process.cli(finished.file, tmp_path, *options)
    assert done.returncode == Exit.OK, done.stderr
    assert json.loads(done.stdout)["table"][0]["cell"]["task"] == "sst2"


@pytest.mark.skipif("P2P_DIST_REAL_DATA" not in os.environ, reason="P2P_DIST_DATA was not set: no real SST-2 here")
def test_real_sst2(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("P2P_DIST_DATA", os.environ["P2P_DIST_REAL_DATA"])
    study = tmp_path / "study.yaml"
    study.write_text(
        TINY_STUDY.replace("rows: {train: 64, test: 20, reserve: 20}", "rows: {train: 200, test: null, reserve: 40}")
    )
    options = ("task=sst2", "attack={name: badnets, rate: 0.05}", "defense=p2p", "exclude=[]")
    done = in_process.cli(study, tmp_path, *options, "--backend", "local", "--json")
    assert done.returncode == Exit.OK, done.stderr
    rates = json.loads(done.stdout)["table"][-1]["rates"]
    assert rates["ca_ext"]["n"] == 1821
    assert rates["asr_ext"]["n"] == 912, "every negative test sentence and no other"
