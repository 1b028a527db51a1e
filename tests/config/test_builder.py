"""Stages that a defense asks for: ids by content, which stay when a feature is not used."""

from dataclasses import replace

import pytest
from pydantic import ValidationError

from p2p_dist import registry
from p2p_dist.config.builder import Builder, Evaluation, Training
from p2p_dist.config.graph import Graph, Stage
from p2p_dist.config.methods import Consistency, Reparametrization
from p2p_dist.config.run_settings import Settings
from p2p_dist.config.score_methods import EarlyTrust, LabelScores, WordPerplexity
from p2p_dist.config.study import TrainSpec
from p2p_dist.errors import UserError

MODEL = {"source": "random"}
TRUST = EarlyTrust(check_every=1, probe=10, agreement=0.5, checkpoints=1, draw=0)


def builder() -> Builder:
    attack = registry.load("attacks", "none")()
    extra = {"language_model": ({"source": "hub", "ref": "a/b"}, {"path": "/here"})}
    return Builder(
        Graph(),
        Settings(
            {"rows": {}}, attack, {"name": "none"}, {"name": "p2p"}, MODEL, TrainSpec().model_dump(), 3, {}, extra
        ),
    )


def test_trained_without_options_keeps_old_ids() -> None:
    """Features that are off leave the ids as they were before the feature existed."""
    build = builder()
    rows = build.attacked(None)
    plain = Stage("train", {"model": MODEL, "train": TrainSpec().model_dump(), "seed": 3}, {"rows": rows.id})
    assert build.trained(rows).id == plain.id
    defended = Stage("data", {"step": "defend", "defense": {"name": "p2p"}, "seed": 3}, {"rows": rows.id})
    assert build.defended(rows).id == defended.id


def test_trained_with_an_option_is_another_adapter() -> None:
    """Another start, end, loss or setting has another id; a trusted base has none where all bases are trusted."""
    build = builder()
    rows = build.attacked(None)
    first = build.trained(rows)
    others = [
        build.trained(rows, Training(start=first)),
        build.trained(rows, Training(stop_after_steps=5)),
        build.trained(rows, Training(objective=Consistency(weight=1, epsilon=1))),
        build.trained(rows, Training(changes={"num_train_epochs": 9})),
        build.trained(rows, Training(changes={"lora": {"r": 1}})),
        build.trained(rows, Training(reparametrized=Reparametrization(width=2))),
        build.trained(rows, Training(teacher=first)),
    ]
    assert len({stage.id for stage in (first, *others)}) == 8
    assert others[6].reads == {"rows": rows.id, "teacher": first.id}
    assert build.trained(rows, Training(trusted_base=True)) is first, (
        "every base is trusted, where no weights are poisoned"
    )
    assert others[0].reads == {"rows": rows.id, "start": first.id}
    assert others[4].spec["train"]["lora"] == {**TrainSpec().lora.model_dump(), "r": 1}
    assert first.spec["train"] == TrainSpec().model_dump()


def test_trained_unknown_setting_raises() -> None:
    """A change of a setting that `train` does not have is refused."""
    build = builder()
    with pytest.raises(ValidationError):
        build.trained(build.attacked(None), Training(changes={"learning_rat": 1e-3}))


def test_scored_equal_content_is_one_stage() -> None:
    """Scores have one id by rows, method and model, whoever asks for them."""
    build = builder()
    rows = build.attacked(None)
    adapter = build.trained(rows)
    by_adapter = build.scored(rows, LabelScores(sets=("train",)), adapter)
    assert by_adapter.reads == {"rows": rows.id, "adapter": adapter.id}
    assert build.scored(rows, LabelScores(sets=("train",)), adapter) is by_adapter
    perplexity = build.scored(rows, WordPerplexity(sets=("suites",)), model="language_model")
    assert perplexity.spec["model"] == {"source": "hub", "ref": "a/b"}
    assert perplexity.local == {"model": {"path": "/here"}}
    assert "seed" not in perplexity.spec
    assert build.scored(rows, TRUST).spec["seed"] == 3


def test_defended_score_roles_are_identity() -> None:
    """The role of a score stage is part of the id of the stage that reads it."""
    build = builder()
    rows = build.attacked(None)
    score = build.scored(rows, LabelScores(sets=("train",)), build.trained(rows))
    assert build.defended(rows, {"one": score}).id != build.defended(rows, {"two": score}).id
    assert build.edited(rows, {"one": score}).reads == {"rows": rows.id, "one": score.id}
    assert build.defended(rows, phase="recover").id != build.defended(rows).id


def test_tested_extra_suites_are_a_stage_of_their_own() -> None:
    """Suites that the study adds are a data stage behind the rows, read by evaluations of all suites."""
    plain = builder()
    rows = plain.attacked(None)
    assert plain.tested(rows) is rows
    build = Builder(Graph(), replace(plain.settings, suites=("imitation", "cue_grid")))
    rows = build.attacked(None)
    tested = build.tested(rows)
    assert tested.spec == {"step": "probe", "suites": ["cue_grid", "imitation"]}
    assert build.tested(tested) is tested
    adapter = build.trained(rows)
    assert build.evaluated(adapter, rows).reads == {"adapter": adapter.id, "rows": tested.id}
    assert build.evaluated(adapter, rows, Evaluation(("triggered",))).reads["rows"] == rows.id, (
        "the floor needs none of them"
    )
    edited = build.edited(tested)
    assert build.evaluated(adapter, edited).reads["rows"] == edited.id


def test_handed_on_adapter_starts_every_training() -> None:
    """Poisoned weights are the start of every training that names no other."""
    build = builder()
    rows = build.handed_on(3)
    attacked = build.attacked(3)
    poisoned = build.start
    assert poisoned is not None
    assert poisoned.reads == {"rows": attacked.id}
    assert rows.spec == {**attacked.spec, "train_rows": "clean"}
    assert build.trained(rows).reads == {"rows": rows.id, "start": poisoned.id}
    other = build.trained(rows)
    assert build.trained(rows, Training(start=other)).reads["start"] == other.id
    assert builder().trained(attacked).id == poisoned.id, "the undefended model of the same attack by data"


def test_trained_fresh_after_handed_on_raises_e241() -> None:
    """A training that cannot start from the poisoned adapter is refused."""
    build = builder()
    rows = build.handed_on(3)
    asks = (
        lambda: build.trained(rows, Training(changes={"lora": {"r": 1}})),
        lambda: build.trained(rows, Training(trusted_base=True)),
        lambda: build.scored(rows, TRUST),
    )
    for ask in asks:
        with pytest.raises(UserError, match=r"E241.*p2p"):
            ask()


def test_for_rows_has_trainings_only_for_scores() -> None:
    """Rows need a training only where a defense scores rows by a model."""
    build = builder()
    rows = build.attacked(None)
    build.evaluated(build.trained(build.defended(rows)), rows)
    assert [stage.kind for stage in build.graph.for_rows().stages.values()] == ["data", "data"]
    first = build.trained(rows)
    score = build.scored(rows, LabelScores(sets=("train",)), first)
    build.trained(build.defended(rows, {"one": score}))
    rows_graph = build.graph.for_rows()
    assert [stage.kind for stage in rows_graph.stages.values()] == ["data", "data", "train", "score", "data"]
    assert set(rows_graph.stages) < set(build.graph.stages)
