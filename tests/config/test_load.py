"""Studies fail before anything is loaded, with every error, its place and a suggestion."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from p2p_dist.config import load
from p2p_dist.config.study import StudySpec
from p2p_dist.errors import UserError
from p2p_dist.scheduling.study import configs_dir
from tests.conftest import TINY_STUDY

Write = Callable[[str], Path]


def load_study(path: Path, overrides: Sequence[str] = ()) -> StudySpec:
    return load.load_study(path, overrides, configs_dir() / "models")


def problems(path: Path, *overrides: str) -> list[str]:
    with pytest.raises(UserError) as caught:
        load_study(path, overrides)
    return [str(problem) for problem in caught.value.problems]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (("learning_rate", "learing_rate"), ("E103", "(train.learing_rate)", "did you mean 'learning_rate'?")),
        (("learning_rate", "lr"), ("E103", "Try: write 'learning_rate'", "study.yaml:11")),
        (("1e-2", "fast"), ("E107", "got 'fast'", "(train.learning_rate)")),
        (("1e-2", ".inf"), ("E107", "(train.learning_rate)", "finite")),
        (("1e-2", "0"), ("E107", "(train.learning_rate)", "greater than 0")),
        (("global_batch: 16", "global_batch: true"), ("E107", "(train.global_batch)", "integer")),
        (("name: badnets", "name: badnet"), ("E117", "did you mean 'badnets'?", "study.yaml:7 (attack.1.name)")),
        (("rate: 0.05", "rate: 5"), ("E108", "Try: write 0.05", "(attack.1.rate)")),
        (
            ("rate: 0.05", "preset: p3p"),
            ("E117", "unknown preset 'p3p' of badnets", "use one of p2p, released_code"),
        ),
        (("rate: 0.05", "preset: [p2p]"), ("E117", "unknown preset ['p2p']", "(attack.1.preset)")),
        (("rate: 0.05", "rat: 0.05"), ("E103", "did you mean 'rate'?", "(attack.1.rat)")),
        (("name: tiny", "name: ../../x"), ("E112", "got '../../x'", "(name)")),
        (("task: rotten_tomatoes", "task: 3"), ("E103", "expected a name", "(task)")),
        (("{r: 4}", "{r: 4, x: 1}"), ("E103", "unknown key 'x'", "(train.lora.x)")),
    ],
)
def test_one_mistake(study_file: Write, change: tuple[str, str], expected: tuple[str, ...]) -> None:
    found = problems(study_file(TINY_STUDY.replace(*change)))
    assert len(found) == 1
    assert all(part in found[0] for part in expected), found[0]


def test_all_mistakes_of_a_file_at_once(study_file: Write) -> None:
    text = (
        TINY_STUDY.replace("learning_rate", "learing_rate")
        .replace("badnets", "badnet")
        .replace("defense: [none, p2p]", "defense: [none, q2q]")
        .replace("train: 64", "train: -1")
        .replace("model: tiny", "model: [tiny, tny]")
    )
    found = problems(study_file(text))
    assert len(found) == 5
    assert {line[6:10] for line in found} == {"E103", "E117", "E107"}


def test_missing_key_and_missing_file(study_file: Write, tmp_path: Path) -> None:
    assert "key 'model' is missing" in problems(study_file(TINY_STUDY.replace("model: tiny\n", "")))[0]
    assert "E100" in problems(tmp_path / "no.yaml")[0]


def test_options_beside_a_preset_win_key_by_key(study_file: Write) -> None:
    """An option of P2P in the weights changes that one, and not where its benign rows come from."""
    chosen = "defense={name: p2p_in_weights, preset: math, rule: rewrite, p2p: {ratio: 0.3}}"
    (defense,) = load_study(study_file(TINY_STUDY), [chosen]).defense
    p2p = defense.model_dump()["p2p"]
    assert (p2p["ratio"], p2p["benign_source"]) == (0.3, "screened")
    assert p2p["response_prefix"] == "The correct answer to this problem is: "
    (control,) = load_study(study_file(TINY_STUDY), ["defense={name: p2p_in_weights, preset: math, p2p: null}"]).defense
    assert control.model_dump()["p2p"] is None


def test_overrides_follow_the_rules_of_the_file(study_file: Write) -> None:
    study = load_study(
        study_file(TINY_STUDY), ["train.learning_rate=1e-5", "seed=[0, 1]", "task=sst2", "rows.test=null"]
    )
    assert (study.train.learning_rate, study.seed, study.rows.test) == (1e-5, (0, 1), None)
    assert type(study.task[0]).__name__ == "Sst2"
    assert "the command line (train.learing_rate)" in problems(study_file(TINY_STUDY), "train.learing_rate=1")[0]
    assert "E118" in problems(study_file(TINY_STUDY), "train")[0]
    assert "E118" in problems(study_file(TINY_STUDY), "name.x=1")[0]
    assert "E101" in problems(study_file(TINY_STUDY), "description=no")[0]


def test_seed_must_be_a_whole_number(study_file: Write) -> None:
    assert "E107" in problems(study_file(TINY_STUDY), "seed=[0, x]")[0]
    assert "E107" in problems(study_file(TINY_STUDY), "seed=true")[0]


def test_attack_and_defense_default_to_none(study_file: Write) -> None:
    study = load_study(study_file("name: x\ntask: sst2\nmodel: tiny\n"))
    assert [type(plugin).__name__ for plugin in (*study.attack, *study.defense)] == ["NoAttack", "NoDefense"]
