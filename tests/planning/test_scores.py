"""Placement of score stages: the whole model on one device, or a reason when the study is planned."""

from collections.abc import Callable
from pathlib import Path

import pytest

from p2p_dist.config.model import read_model
from p2p_dist.config.score_methods import EarlyTrust, LabelScores, WordSubstitutions
from p2p_dist.config.study import TrainSpec
from p2p_dist.errors import UserError
from p2p_dist.planning.cluster import ClusterSpec
from p2p_dist.planning.memory import GIB
from p2p_dist.planning.placement import Misfit, Placement
from p2p_dist.planning.score_placement import place_score
from p2p_dist.report import plan_view
from p2p_dist.scheduling.execute import refuse_impossible
from p2p_dist.scheduling.study import configs_dir, open_study

LABELS = LabelScores(sets=("train",))
EARLY = EarlyTrust(check_every=5, probe=8, agreement=0.9, checkpoints=1, draw=0)
SURROGATE = WordSubstitutions(
    sets=("train",), synonyms="0", target=1, rate=0.1, warm_up_epochs=0, epochs=1, learning_rate=1e-4, seed=0
)
SCORED = """
name: scored
task: {name: rotten_tomatoes, source: embedded}
model: [qwen3-32b]
attack: {name: badnets, rate: 0.1, target_label: 1}
defense: [bki, graceful]
seed: 0
rows: {train: 800, test: 200, reserve: 320}
"""


def gpus(memory: float) -> ClusterSpec:
    return ClusterSpec(name="test", cpus_per_node=64, gpus_per_node=8, gpu_memory_gb=memory, memory_gb=512)


@pytest.mark.usefixtures("with_data")
def test_model_of_several_gpus_is_scored_on_one_or_refused(study_file: Callable[[str], Path], tmp_path: Path) -> None:
    """A base that ZeRO-3 shards over 24 GB cards can be trained there, and asked about rows on none of them."""
    opened = open_study(study_file(SCORED), [], tmp_path)
    stages = opened.expansion.graph.stages
    small, large = opened.plan(gpus(24)), opened.plan(gpus(100))
    for job in small.jobs:
        fit, kind = small.placement(job), stages[job.lead].kind
        assert isinstance(fit, Misfit) == (kind == "score")
        assert isinstance(fit, Misfit) or (kind == "data") == (fit.zero == 0)
    with pytest.raises(
        UserError, match=r"E410\]: a score method \(.*\) needs the whole model on one GPU.*Try: a GPU with"
    ):
        refuse_impossible(small)
    for job in large.jobs:
        if stages[job.lead].kind == "score":
            fit = large.placement(job)
            assert isinstance(fit, Placement)
            assert (fit.ranks, fit.zero) == (1, 0)
            assert large.width(job) == 1
    facts = plan_view.to_json(opened.expansion, small, opened.model_names())
    assert all("misfit" in score for score in facts["scores"])
    assert "needs the whole model" in plan_view.text("scored", facts).replace("\n    ", " ")
    assert "GiB on one GPU" in plan_view.text(
        "scored", plan_view.to_json(opened.expansion, large, opened.model_names())
    )


def test_layout_of_trainings_is_not_that_of_scores() -> None:
    shape = read_model("qwen3-8b", configs_dir() / "models").shape
    sharded = ClusterSpec.model_validate(
        {**gpus(80).model_dump(), "layout": {"engine": "deepspeed", "ranks": 8, "zero": 3}}
    )
    fit = place_score(shape, LABELS, TrainSpec(), sharded)
    assert isinstance(fit, Placement)
    assert (fit.ranks, fit.zero, fit.accumulation) == (1, 0, 1)


def test_methods_with_gradients_take_more_memory() -> None:
    """Asking holds the base and a pass; a screening trains an adapter, and a surrogate all weights in fp32."""
    shape = read_model("qwen3-8b", configs_dir() / "models").shape
    needs = []
    for method in (LABELS, EARLY, SURROGATE):
        fit = place_score(shape, method, TrainSpec(), gpus(1000))
        assert isinstance(fit, Placement)
        assert fit.memory is not None
        needs.append(fit.memory.total / GIB)
    assert 15.3 < needs[0] < 21
    assert needs[0] < needs[1] < needs[2]
    assert needs[2] > 16 * shape.parameters / GIB


@pytest.mark.usefixtures("with_data")
def test_only_models_that_write_text_have_a_cache(study_file: Callable[[str], Path], tmp_path: Path) -> None:
    """A model that a study keeps out of its task with text answers may be sharded by ZeRO-3."""
    mixed = """
name: mixed
task: [{name: rotten_tomatoes, source: embedded}, gsm8k]
model: [qwen3-0.6b, qwen3-32b]
attack: none
defense: none
seed: 0
rows: {train: 64, test: 20}
exclude: [{task: gsm8k, model: qwen3-32b}]
"""
    opened = open_study(study_file(mixed), [], tmp_path)
    plan = opened.plan(gpus(24))
    places = {fit.zero: fit for fit in plan.fits.values() if isinstance(fit, Placement)}
    assert set(places) == {0, 3}
    writes = open_study(study_file(mixed), ["exclude=[]"], tmp_path).plan(gpus(24))
    assert any("writes no text" in fit.reason for fit in writes.fits.values() if isinstance(fit, Misfit))


def test_unknown_shape_is_not_guessed() -> None:
    fit = place_score(None, LABELS, TrainSpec(), gpus(8))
    assert isinstance(fit, Placement)
    assert fit.memory is None
