"""Typed stages: every spec of a study is parsed, and what this version does not know is refused."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from p2p_dist import registry
from p2p_dist.config.builder import Builder
from p2p_dist.config.graph import Graph, Stage
from p2p_dist.config.run_settings import Settings
from p2p_dist.config.score_methods import EarlyTrust
from p2p_dist.config.stages import EvalStage, ScoreStage, TrainStage, parse
from p2p_dist.config.study import RowsSpec, TrainSpec
from p2p_dist.errors import Exit, UserError
from p2p_dist.results.rundir import RunDir
from tests.contracts.test_plugins import options

MODEL = {"source": "random", "shape": {"hidden": 8}}
DATA = {"task": {"name": "sst2"}, "rows": RowsSpec().model_dump(), "source": "0" * 12}
TRAIN = {"model": MODEL, "train": TrainSpec().model_dump(), "seed": 3}
RULE = {"above": 0.7}


def stages_of(defense: str, by_weights: bool) -> list[Stage]:
    """All stages of one run."""
    plugin = registry.load("defenses", defense)
    chosen = plugin.model_validate(options(plugin))
    settings = Settings(
        DATA,
        registry.load("attacks", "none")(),
        {"name": "none"},
        {"name": defense, **chosen.model_dump()},
        MODEL,
        TrainSpec().model_dump(),
        3,
        {"source": {"kind": "files", "place": "/here"}},
        {option: ({"source": "hub", "ref": "a/b"}, {"path": "/here"}) for option in plugin.model_options},
        ("imitation", "cue_grid"),
    )
    build = Builder(Graph(), settings)
    chosen.stages(build, build.handed_on(3) if by_weights else build.attacked(3))
    return list(build.graph.stages.values())


@pytest.mark.parametrize(
    ("defense", "by_weights"),
    [*((name, False) for name in registry.names("defenses")), ("p2p", True), ("psim", True), ("pruning", True)],
)
def test_parse_stages_of_a_defense_keeps_every_value(defense: str, by_weights: bool) -> None:
    """Each stage that a defense asks for is parsed into fields that say what its spec says."""
    for stage in stages_of(defense, by_weights):
        parsed = parse(stage)
        dumped = parsed.model_dump(exclude={"stage", "reads", "local"}, by_alias=True, mode="json")
        assert without_none(dumped) == without_none(stage.spec)
        assert parsed.reads.model_dump(exclude_none=True) == stage.reads
        assert parsed.local.model_dump(exclude_defaults=True) == stage.local
        assert parsed.id == stage.id


def without_none(value: Any) -> Any:
    """JSON as ids see it."""
    if isinstance(value, Mapping):
        return {key: without_none(item) for key, item in value.items() if item is not None}
    return [without_none(item) for item in value] if isinstance(value, list | tuple) else value


@pytest.mark.parametrize(
    ("stage", "key"),
    [
        (Stage("train", {**TRAIN, "curriculum": "hard"}, {"rows": "a"}), "curriculum"),
        (Stage("train", {**TRAIN, "train": {**TrainSpec().model_dump(), "ema": 0.9}}, {"rows": "a"}), "train.ema"),
        (Stage("train", {**TRAIN, "objective": {"name": "nothing"}}, {"rows": "a"}), "objective"),
        (
            Stage("train", {**TRAIN, "prune": {"method": "wanda", "sparsity": 2.0}}, {"rows": "a"}),
            "prune.wanda.sparsity",
        ),
        (Stage("train", {**TRAIN, "seed": "3"}, {"rows": "a"}), "seed"),
        (Stage("train", TRAIN, {"rows": "a", "curriculum": "b"}), "reads.curriculum"),
        (Stage("train", TRAIN), "reads.rows"),
        (Stage("train", {**TRAIN, "stage": 1}, {"rows": "a"}), "stage"),
        (Stage("data", {"step": "invent"}, {"rows": "a"}), "step"),
        (Stage("data", {"step": "probe", "suites": ["other"]}, {"rows": "a"}), "suites"),
        (Stage("score", {"method": {"name": "labels", "sets": []}}, {"rows": "a", "adapter": "b"}), "method"),
        (Stage("eval", {"scoring": "by_hand"}, {"adapter": "a", "rows": "b"}), "scoring"),
    ],
)
def test_parse_unknown_key_or_value_raises_e290(stage: Stage, key: str) -> None:
    """A spec that this version does not know in full is refused with the key."""
    with pytest.raises(UserError, match=rf"E290.*{stage.id}: .*{key}") as caught:
        parse(stage)
    assert caught.value.exit_code == Exit.INTEGRITY


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        (
            Stage("score", {"method": {"name": "labels", "sets": ["train"]}}, {"rows": "a"}),
            "an adapter to read or",
        ),
        (
            Stage("score", {"method": {"name": "labels", "sets": ["train"]}, "model": MODEL, "seed": 1}, {"rows": "a"}),
            "needs a model and a seed",
        ),
        (Stage("eval", {"scoring": "label_logits", "refuse": RULE}, {"adapter": "a", "rows": "b"}), "a judge"),
        (
            Stage("eval", {"scoring": "label_logits"}, {"adapter": "a", "rows": "b", "reference": "c"}),
            "greedy decoding none",
        ),
    ],
)
def test_parse_contradictory_spec_raises_e290(stage: Stage, message: str) -> None:
    """Keys that only have a meaning together are refused alone."""
    with pytest.raises(UserError, match=rf"E290.*{message}"):
        parse(stage)


def test_early_trust_fold_outside_folds_is_refused() -> None:
    """Folds are numbered from 0."""
    method = {"check_every": 1, "probe": 10, "agreement": 0.5, "checkpoints": 1, "draw": 0}
    assert EarlyTrust.model_validate({**method, "folds": 2, "fold": 1}).fold == 1
    for part in ({"folds": 2, "fold": 2}, {"folds": 2}, {"fold": 0}):
        with pytest.raises(ValueError, match="fold"):
            EarlyTrust.model_validate({**method, **part})


def test_parse_minimal_specs_gives_defaults() -> None:
    """Keys that are left out mean that the feature is off."""
    train = parse(Stage("train", TRAIN, {"rows": "a"}, {"model": {"asset": "x"}}))
    assert isinstance(train, TrainStage)
    assert (train.train, train.seed, train.objective, train.reads.start) == (TrainSpec(), 3, None, None)
    assert train.local.model == {"asset": "x"}
    evaluation = parse(Stage("eval", {"scoring": "label_logits"}, {"adapter": "a", "rows": "b"}))
    assert isinstance(evaluation, EvalStage)
    assert (evaluation.suites, evaluation.reject, evaluation.decode) == (None, None, None)
    score = parse(Stage("score", {"method": {"name": "labels", "sets": ["train"]}}, {"rows": "a", "adapter": "b"}))
    assert isinstance(score, ScoreStage)
    assert (score.model, score.train) == (None, None)


@pytest.mark.parametrize("damage", ['{"id": "', "[]", "{}", "edited"])
def test_read_stage_damaged_spec_raises_e291(tmp_path: Path, damage: str) -> None:
    """A file that is cut off, foreign or edited by hand is named with its path."""
    folder = RunDir(tmp_path)
    stage = Stage("train", TRAIN, {"rows": "a"})
    target = folder.stage(stage)
    target.write_spec(stage)
    assert folder.train_stage(stage.id).seed == 3
    text = target.spec.read_text()
    target.spec.write_text(text.replace('"seed": 3', '"seed": 4') if damage == "edited" else damage)
    with pytest.raises(UserError, match=r"E291.*spec\.json"):
        target.read_stage()
