"""Workers that stay give the bytes of fresh ones, in any order of jobs, whatever is killed."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from p2p_dist.config.model import resolve_model
from p2p_dist.errors import Exit
from p2p_dist.modeling.random_init import random_model
from p2p_dist.planning.jobs import Job
from p2p_dist.planning.placement import Placement
from p2p_dist.scheduling.process_groups import GroupSettings, build_process_group
from p2p_dist.scheduling.study import configs_dir, find_cluster, open_study
from p2p_dist.scheduling.worker_pool import WorkerSlot
from tests.e2e.test_study import _processes_naming, _wait_for, cli, command
from tests.outcomes import assert_same, results

pytestmark = pytest.mark.usefixtures("with_data")
STUDY = """
name: mixed
task: rotten_tomatoes
model: MODEL
attack: {name: badnets, rate: 0.05}
defense: [none, p2p, {name: onion, language_model: tiny}, {name: pruning, sparsity: 0.3}]
rows: {train: 64, test: 20, reserve: 20}
train: {learning_rate: 1e-2, num_train_epochs: 8, global_batch: 16, dtype: float32, lora: {r: 4, dropout: 0.1}}
"""
SLOTS = ("--slots", "2")
LOCAL = ("--backend", "local", *SLOTS)


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory, data_root: Path) -> tuple[Path, dict[str, bytes]]:
    """(study file, results of fresh processes). Two bases, one of them from a file and changed by a defense; rows,
    scores, edits, trainings, evaluations of an adapter that another job trained."""
    folder = tmp_path_factory.mktemp("fresh")
    for part in random_model({**resolve_model("tiny", configs_dir() / "models").identity["shape"], "layers": 3}):
        part.save_pretrained(folder / "model")
    (folder / "study.yaml").write_text(STUDY.replace("MODEL", str(folder / "model")))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("P2P_DIST_DATA", str(data_root))
        done = cli(folder / "study.yaml", folder / "runs", *LOCAL, "--fresh-workers")
    assert done.returncode == Exit.OK, done.stderr
    return folder / "study.yaml", results(folder / "runs")


def ended(runs: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in runs.rglob("exit.json")]


def workers(runs: Path) -> set[int]:
    return {pid for pid, line in _processes_naming(str(runs)).items() if "p2p_dist.worker" in line}


def last_first(jobs: list[Job]) -> list[Job]:
    """Another order in which nothing waits for what comes later: always the last of the plan that can be done."""
    ordered: list[Job] = []
    while len(ordered) < len(jobs):
        done = {id_ for job in ordered for id_ in job.stages}
        ordered.append([job for job in jobs if job not in ordered and job.needs <= done][-1])
    return ordered


@pytest.mark.parametrize("options", [LOCAL, SLOTS], ids=["local", "ray"])
def test_warm_workers_give_the_bytes_of_fresh_ones(fresh: Any, tmp_path: Path, options: tuple[str, ...]) -> None:
    """A study of workers that stay has the bytes of fresh ones."""
    study, expected = fresh
    done = cli(study, tmp_path, *options)
    assert done.returncode == Exit.OK, done.stderr
    assert {end["code"] for end in ended(tmp_path)} == {0}
    assert_same(tmp_path, expected)


def test_the_order_of_jobs_does_not_matter(fresh: Any, tmp_path: Path) -> None:
    study, expected = fresh
    opened = open_study(study, [], tmp_path)
    opened.folder.write_specs(opened.expansion.graph)
    cluster = find_cluster(None)
    plan = opened.plan(cluster)
    slot, settings = WorkerSlot(), GroupSettings(max(1, cluster.cpus_per_node // 2), 0, 1, 50, warm=True)
    order = last_first(plan.jobs)
    assert order != plan.jobs
    pids = set()
    for at, job in enumerate(order):
        placement = plan.placement(job)
        assert isinstance(placement, Placement)
        (tmp_path / str(at)).mkdir()
        slot.start(build_process_group(opened.folder, job, placement, settings, tmp_path / str(at) / "log", {}), {})
        assert slot.warm_worker is not None
        pids.add(slot.warm_worker.process.pid)
        while (code := slot.poll()) is None:
            time.sleep(0.02)
        assert code == 0, (tmp_path / str(at) / "log").read_text()
    slot.stop()
    assert len(pids) == 1, "one process has done it all"
    assert_same(tmp_path, expected)


def test_warm_worker_killed_in_a_later_job_is_replaced(fresh: Any, tmp_path: Path) -> None:
    """A worker killed in a later job is replaced and the bytes are the same."""
    study, expected = fresh
    controller = subprocess.Popen(
        command(study, tmp_path, *LOCAL), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    _wait_for(lambda: ended(tmp_path), 60)
    before = workers(tmp_path)
    _wait_for(lambda: list(tmp_path.rglob("train/*/metrics.jsonl")), 60)
    now = workers(tmp_path)
    assert before
    assert before <= now, "who did the first job goes on with another"
    for pid in now:
        os.kill(pid, signal.SIGKILL)
    _, said = controller.communicate(timeout=240)
    assert controller.returncode == Exit.OK, said
    assert {end["code"] for end in ended(tmp_path)} == {-signal.SIGKILL, 0}
    assert_same(tmp_path, expected)
    assert not workers(tmp_path)
