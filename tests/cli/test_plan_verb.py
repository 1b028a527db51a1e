"""`p2p-dist plan` on invented clusters, and its simulation."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from p2p_dist.errors import Exit, UserError
from p2p_dist.planning.cluster import ClusterSpec, invented
from p2p_dist.planning.durations import Rates
from p2p_dist.planning.placement import device_memory
from p2p_dist.scheduling.study import find_cluster
from tests.cli.test_main import invoke
from tests.planning.test_plan import LARGE

pytestmark = pytest.mark.usefixtures("with_data")


def simulated(*arguments: str) -> dict[str, Any]:
    code, said, error = invoke("plan", *arguments, "--simulate", "--json")
    assert code == 0, error
    return dict(json.loads(said))


def test_two_thousand_runs_on_1024_gpus_that_fail(
    study_file: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A few minutes of these GPUs, and nodes that fail every hour: some work is done twice and all of it ends."""
    monkeypatch.delenv("P2P_DIST_DATA")  # more rows than these files have; on the hub they are not counted
    wide = [
        "rows={train: 20000, test: 2000, reserve: 400, balanced: false}",
        "--cluster",
        "8xh100",
        "--nodes",
        "128",
        "--mtbf",
        "1",
    ]
    arguments = [str(study_file(LARGE)), *wide, "--runs-dir", str(tmp_path)]
    found = simulated(*arguments)
    simulation = found["simulation"]
    assert len(found["runs"]) == 2000
    assert simulation["nodes"] * simulation["slots_per_node"] == 1024
    assert simulation["jobs"]["done"] == simulation["jobs"]["all"] == len(found["jobs"])
    assert simulation["node_failures"] > 0 < simulation["killed_attempts"]
    assert 0.9 < simulation["goodput"] < 1
    assert simulation["makespan_hours"] >= simulation["bound_hours"]
    assert simulated(*arguments)["simulation"] == simulation
    assert simulated(*arguments, "--seed", "1")["simulation"]["goodput"] != simulation["goodput"]


def test_in_words(study_file: Callable[[], Path], tmp_path: Path) -> None:
    code, text, _ = invoke("plan", str(study_file()), "--nodes", "4", "--simulate", "--runs-dir", str(tmp_path))
    assert code == 0
    assert [line for line in text.splitlines() if len(line) > 80] == []
    said = " ".join(text.split())
    assert "nothing fails" in said
    assert "goodput 100.0 %: nothing lost; 0 node failures ended 0 attempts" in said
    assert "6 of 6 jobs done" in said
    assert (
        "a job takes 0.5 s to start"
        in invoke("plan", str(study_file()), "--simulate", "--start-seconds", "0.5", "--runs-dir", str(tmp_path))[1]
    )
    assert "simulated" not in invoke("plan", str(study_file()), "--runs-dir", str(tmp_path))[1]


def test_what_fits_nowhere_is_left_out_and_said(study_file: Callable[[str], Path], tmp_path: Path) -> None:
    path = tmp_path / "small.yaml"
    path.write_text("name: small\ncpus_per_node: 8\ngpus_per_node: 1\ngpu_memory_gb: 12\n")
    code, said, _ = invoke(
        "plan", str(study_file(LARGE)), "seed=0", "--cluster", str(path), "--simulate", "--runs-dir", str(tmp_path)
    )
    assert code == Exit.USAGE
    assert "jobs fit nowhere" in said


def test_failures_need_a_simulation(study_file: Callable[[], Path]) -> None:
    code, _, error = invoke("plan", str(study_file()), "--mtbf", "5", "--repair", "1")
    assert code == Exit.USAGE
    assert "E143" in error
    assert "--mtbf, --repair" in error


def test_every_trouble_is_said(study_file: Callable[[], Path], tmp_path: Path) -> None:
    """Preempted every minute and a half and with slow storage, a study of seconds still ends."""
    trouble = ["--mtbf", "0.5", "--device-mtbf", "1000", "--preempted", "0.025", "--write-seconds", "3"]
    where = [str(study_file()), "--nodes", "2", "--repair", "0.1", "--runs-dir", str(tmp_path)]
    found = simulated(*where, *trouble)["simulation"]
    assert found["preemptions"] > 0
    assert found["device_hours"]["writing"] > 0
    assert found["jobs"]["done"] == found["jobs"]["all"]
    text = invoke("plan", *where, "--simulate", *trouble)[1]
    assert max(map(len, text.splitlines())) <= 80
    said = " ".join(text.split())
    assert "a node fails every 0.5 h on average, a node is preempted every 0.025 h on average" in said
    assert "fails every 1000 h on average, and nodes are back after 0.1 min" in said
    assert "writing takes 3 s" in said
    assert f"{found['preemptions']} preemptions" in said


def test_an_invented_cluster() -> None:
    like = find_cluster("8xh100")
    assert invented(like, None, None) is like
    many = invented(like, 128, None)
    assert (many.nodes, many.gpus_per_node, many.gpu_memory_gb, many.tflops) == (
        128,
        8,
        like.gpu_memory_gb,
        like.tflops,
    )
    other = invented(find_cluster("laptop"), 2, 4)
    assert (other.nodes, other.gpus_per_node, other.gpu_memory_gb, other.tflops) == (2, 4, None, None)
    with pytest.raises(Exception, match=r"E107.*16"):
        invented(find_cluster("4x8xh100-zero3"), 1, None)


def test_slots_share_cores_and_memory_of_a_node_without_gpus() -> None:
    one = find_cluster("laptop", 1)
    two = find_cluster("laptop", 1, 2)
    assert (one.slots_per_node, two.slots_per_node) == (1, 2)
    assert Rates({}, two).operations == Rates({}, one).operations / 2
    memory = device_memory(one)
    assert memory is not None
    assert device_memory(two) == memory / 2
    nodes = one.model_copy(update={"nodes": 2})
    assert [nodes.side_by_side(slots).slots_per_node for slots in (None, 1, 2, 4)] == [1, 1, 1, 2]
    with pytest.raises(UserError, match=r"E107.*3 slots on 2 equal nodes.*2 or 4"):
        nodes.side_by_side(3)
    with pytest.raises(UserError, match=r"E107.*ranks of its layout"):
        find_cluster("laptop-zero2", 1, 2)
    assert find_cluster("8xh100", 1, 4) == find_cluster("8xh100"), "a GPU is a slot"
    with pytest.raises(ValueError, match="remove slots"):
        ClusterSpec(name="x", cpus_per_node=8, gpus_per_node=2, slots=2)
    with pytest.raises(ValueError, match="remove slots or layout"):
        ClusterSpec.model_validate({**find_cluster("laptop-zero2").model_dump(), "slots": 2})


def test_plan_of_two_slots_runs_two_jobs_at_a_time(study_file: Callable[[str], Path]) -> None:
    few = ("task=sst2", "model=qwen3-0.6b", "attack=badnets", "defense=none", "seed=[0, 1]")
    words = ("plan", str(study_file(LARGE)), *few, "--cluster", "laptop", "--json")
    one, two = (json.loads(invoke(*words, *more)[1]) for more in ((), ("--slots", "2")))
    named = [{key: value for key, value in plan["cluster"].items() if "slots" in key} for plan in (one, two)]
    assert named == [{"slots_per_node": 1, "slots_in_all": 1}, {"slots_per_node": 2, "slots_in_all": 2}]
    (nodes,) = (json.loads(invoke(*words, "--nodes", "3", "--slots", "6")[1]),)
    assert (nodes["cluster"]["slots_per_node"], nodes["cluster"]["slots_in_all"]) == (2, 6)
    starts = 2 * 10 / 3600
    work = [plan["time"]["device_hours"] - starts for plan in (one, two)]
    assert work[1] == pytest.approx(2 * work[0], rel=0.05), "a worker has half of the cores"
    assert two["time"]["makespan_hours"] == pytest.approx((work[1] + starts) / 2, rel=0.05)
