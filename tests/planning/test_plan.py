"""A whole plan: sharing, placements, time; large studies stay fast and torch stays out."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from p2p_dist.errors import UserError
from p2p_dist.planning.cluster import ClusterSpec
from p2p_dist.planning.placement import Misfit, Placement
from p2p_dist.report import plan_view
from p2p_dist.scheduling.execute import refuse_impossible
from p2p_dist.scheduling.study import find_cluster, open_study

pytestmark = pytest.mark.usefixtures("with_data")
LARGE = f"""
name: large
task: [rotten_tomatoes, sst2]
model: [qwen3-0.6b, qwen3-1.7b, qwen3-4b, qwen3-8b, qwen3-14b]
attack: [none, badnets, addsent, proattack]
defense: [none, p2p]
seed: {list(range(25))}
rows: {{train: 64, test: 20, reserve: 20}}
"""


def test_two_thousand_runs_are_told_in_a_page(study_file: Callable[[str], Path], tmp_path: Path) -> None:
    opened = open_study(study_file(LARGE), [], tmp_path)
    plan = opened.plan(find_cluster("8xh100"), 4)
    said = plan_view.text("large", plan_view.to_json(opened.expansion, plan, opened.model_names()))
    assert len(opened.expansion.runs) == 2000
    assert "and 1961 more" in said
    assert "0.6b" in said


@pytest.mark.process
def test_plan_and_help_do_not_import_torch(study_file: Callable[[str], Path]) -> None:
    code = (
        "import sys; from p2p_dist.cli.main import app\ntry: app()\nfinally: print([m for m in ('torch', 'ray', "
        "'transformers') if m in sys.modules])"
    )
    for arguments in (["plan", str(study_file(LARGE)), "--cluster", "8xh100", "--json"], ["--help"]):
        done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True)
        assert done.stdout.splitlines()[-1] == "[]"


def test_each_size_has_its_place_and_its_time(study_file: Callable[[str], Path], tmp_path: Path) -> None:
    opened = open_study(study_file(LARGE), ["seed=0"], tmp_path)
    small = ClusterSpec(name="small", cpus_per_node=8, gpus_per_node=2, gpu_memory_gb=24)
    plan = opened.plan(small)
    facts = plan_view.to_json(opened.expansion, plan, opened.model_names())
    places = {model["model"]: model["placement"] for model in facts["models"]}
    assert (places["qwen3-0.6b"]["zero"], places["qwen3-14b"]["zero"]) == (0, 3)
    assert facts["time"]["device_hours"] >= facts["time"]["makespan_hours"] >= facts["time"]["bound_hours"] > 0
    assert json.dumps(facts)
    gangs = {fit.ranks for job in plan.jobs if isinstance(fit := plan.placement(job), Placement)}
    assert gangs == {1, 2}


def test_what_can_never_run_is_refused(study_file: Callable[[str], Path], tmp_path: Path) -> None:
    opened = open_study(study_file(LARGE), ["seed=0"], tmp_path)
    plan = opened.plan(ClusterSpec(name="one", cpus_per_node=8, gpus_per_node=1, gpu_memory_gb=12))
    misfits = plan.impossible()
    assert misfits
    assert all(isinstance(misfit, Misfit) for _, misfit in misfits)
    with pytest.raises(UserError, match=r"E410.*Try: a GPU with") as caught:
        refuse_impossible(plan)
    assert len(caught.value.problems) < len(misfits), "each reason once"


def test_unknown_cluster() -> None:
    with pytest.raises(UserError, match=r"E117.*did you mean '8xh100'"):
        find_cluster("8xh10")


def test_a_plan_says_where_layers_are_computed_again(study_file: Callable[[str], Path], tmp_path: Path) -> None:
    opened = open_study(study_file(LARGE), ["seed=0", "train.max_length=8192"], tmp_path)
    facts = plan_view.to_json(opened.expansion, opened.plan(find_cluster("8xh100")), opened.model_names())
    again = [model["model"] for model in facts["models"] if model["placement"]["gradient_checkpointing"]]
    assert again == ["qwen3-14b"], "adapters on all linear layers keep more"
    assert plan_view.text("large", facts).count("gradient checkpointing") == len(again)


def test_plan_shows_the_cost_of_each_defense(study_file: Callable[[str], Path], tmp_path: Path) -> None:
    """`own` is what a defense adds to the study: nothing for a sum of no steps but its clean adapter."""
    overrides = ["model=qwen3-0.6b", "attack=badnets", "seed=0", "task=sst2"]
    opened = open_study(study_file(LARGE), [*overrides, "defense=[none, clean_ft, pruning, lethe]"], tmp_path)
    plan = opened.plan(find_cluster("8xh100"))
    facts = plan_view.to_json(opened.expansion, plan, opened.model_names())
    costs = {one["defense"]: one for one in facts["defenses"]}
    assert list(costs) == ["none", "clean_ft", "pruning", "lethe"]
    assert [one["runs"] for one in costs.values()] == [1] * 4
    assert [one["trainings"] for one in costs.values()] == [1, 2, 2, 3]
    assert [one["own"]["trainings"] for one in costs.values()] == [0, 1, 1, 2]
    evaluation = costs["none"]["own"]["seconds"]
    assert costs["pruning"]["own"]["seconds"] == pytest.approx(evaluation, abs=0.2), "pruning trains nothing"
    assert costs["clean_ft"]["own"]["seconds"] > evaluation
    text = plan_view.text("large", facts)
    assert "own time" in text
    assert any(line.rstrip().endswith(" lethe") for line in text.splitlines())
