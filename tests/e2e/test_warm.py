"""Workers that stay give the bytes of fresh ones, in any order of jobs, whatever is killed."""

import os
import signal
import subprocess
import time
from collections.abc import Callable
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
from tests import in_process
from tests.outcomes import assert_same, results
from tests.studies import ONE_CORE, cli, command, exits, wait_for, workers_of

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
SLOTS = ("--slots", "2", "--cluster", "laptop")
"""Two workers of a core each."""
LOCAL = ("--backend", "local", *SLOTS)


def carry_out(folder: Path, data_root: Path, run: Callable[..., subprocess.CompletedProcess[str]]) -> dict[str, bytes]:
    """Results of the study, every job of it done by a worker of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("P2P_DIST_DATA", str(data_root))
        done = run(folder / "study.yaml", folder / "runs", *LOCAL, "--fresh-workers")
    assert done.returncode == Exit.OK, done.stderr
    return results(folder / "runs")


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two bases, one of them from a file and changed by a defense; rows, scores, edits, trainings, evaluations of an
    adapter that another job trained."""
    folder = tmp_path_factory.mktemp("mixed")
    for part in random_model({**resolve_model("tiny", configs_dir() / "models").identity["shape"], "layers": 3}):
        part.save_pretrained(folder / "model")
    (folder / "study.yaml").write_text(STUDY.replace("MODEL", str(folder / "model")))
    return folder / "study.yaml"


@pytest.fixture(scope="module")
def expected(study: Path, data_root: Path) -> dict[str, bytes]:
    """Results of workers that do one job each, in this process."""
    return carry_out(study.parent, data_root, in_process.cli)


def last_first(jobs: list[Job]) -> list[Job]:
    """Another order in which nothing waits for what comes later: always the last of the plan that can be done."""
    ordered: list[Job] = []
    while len(ordered) < len(jobs):
        done = {id_ for job in ordered for id_ in job.stages}
        ordered.append([job for job in jobs if job not in ordered and job.needs <= done][-1])
    return ordered


@pytest.mark.slow("a process for every job; a fresh worker in one process is the fast witness")
def test_fresh_processes_give_the_same_bytes(study: Path, expected: Any, tmp_path: Path, data_root: Path) -> None:
    """What the tests of this file compare with."""
    (tmp_path / "study.yaml").write_bytes(study.read_bytes())
    assert carry_out(tmp_path, data_root, cli) == expected


@pytest.mark.slow("whole studies; a killed worker that is replaced is the fast witness, `finished` that of Ray")
@pytest.mark.parametrize("options", [LOCAL, SLOTS], ids=["local", "ray"])
def test_warm_workers_give_the_bytes_of_fresh_ones(
    study: Path, expected: Any, tmp_path: Path, options: tuple[str, ...]
) -> None:
    """A study of workers that stay has the bytes of fresh ones."""
    done = cli(study, tmp_path, *options)
    assert done.returncode == Exit.OK, done.stderr
    assert set(exits(tmp_path, "code")) == {0}
    assert_same(tmp_path, expected)


def test_the_order_of_jobs_does_not_matter(study: Path, expected: Any, tmp_path: Path) -> None:
    """All jobs of the study in one process, in another order."""
    opened = open_study(study, [], tmp_path)
    opened.folder.write_specs(opened.expansion.graph)
    cluster = find_cluster(str(ONE_CORE))
    plan = opened.plan(cluster)
    slot, settings = WorkerSlot(), GroupSettings(cluster.cpus_per_node, 0, 1, 50, warm=True)
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


def test_warm_worker_killed_in_a_later_job_is_replaced(study: Path, expected: Any, tmp_path: Path) -> None:
    """A worker killed in a later job is replaced and the bytes are the same."""
    controller = subprocess.Popen(
        command(study, tmp_path, *LOCAL), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    wait_for(lambda: exits(tmp_path, "code"))
    before = workers_of(tmp_path)
    wait_for(lambda: list(tmp_path.rglob("train/*/metrics.jsonl")))
    now = workers_of(tmp_path)
    assert before
    assert before <= now, "who did the first job goes on with another"
    for pid in now:
        os.kill(pid, signal.SIGKILL)
    _, errors = controller.communicate(timeout=480)
    assert controller.returncode == Exit.OK, errors
    assert set(exits(tmp_path, "code")) == {-signal.SIGKILL, 0}
    assert_same(tmp_path, expected)
    assert not workers_of(tmp_path)
