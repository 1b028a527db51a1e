"""Ids: every field of a run is in one, a golden one is pinned, and what has no stable bytes is refused."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from p2p_dist import registry
from p2p_dist.config.graph import Stage
from p2p_dist.config.identity import canonical, stage_id
from p2p_dist.config.study import LoraSpec, RowsSpec, TrainSpec
from p2p_dist.scheduling.study import Study, open_study

OPENED = ["attack={name: badnets}", "defense={name: p2p}", "exclude=[]"]

# One other value for every field that a run is made of. A new field fails the test below until it is listed.
OTHER: dict[str, str] = {
    "train.method": "full",
    "train.learning_rate": "0.5",
    "train.lr_scheduler_type": "cosine",
    "train.warmup_steps": "3",
    "train.num_train_epochs": "4",
    "train.global_batch": "8",
    "train.max_length": "64",
    "train.image_tokens": "32",
    "train.max_grad_norm": "2.0",
    "train.weight_decay": "0.5",
    "train.dtype": "bfloat16",
    "train.quantization": "nf4",
    "train.optimizer": "adamw_8bit",
    "train.compile": "auto",
    "train.lora.r": "2",
    "train.lora.alpha": "3.0",
    "train.lora.dropout": "0.3",
    "train.lora.target_modules": "[q_proj]",
    "train.lora.layers": "1",
    "rows.train": "32",
    "rows.test": "10",
    "rows.reserve": "30",
    "rows.balanced": "false",
    "rows.order": "file",
    "rows.split": "tune",
    "rows.tune": "20",
    "rows.seed": "study",
    "rows.dev": "8",
    "attack.rate": "0.1",
    "attack.count": "3",
    "attack.cover": "2",
    "attack.target_label": "0",
    "attack.label_policy": "clean",
    "attack.poison_selection": "first",
    "attack.target_response": "'0.1'",
    "attack.response_mode": "append",
    "attack.word": "cf",
    "attack.poison_mode": "append",
    "attack.rounding": "down",
    "attack.position": "suffix",
    "attack.policy_response": "No comment.",
    "attack.via": "weights",
    "attack.when": "first",
    "attack.knows": "{benign_trigger: 'Input: '}",
    "defense.ratio": "0.25",
    "defense.further_steps": "5",
    "defense.benign_trigger": "'Input: '",
    "defense.answer_cue": "'Label: '",
    "defense.benign_patch": "{corner: top_left}",
    "defense.benign_source": "disjoint",
    "defense.screening": "{draws: 2}",
    "defense.text_screening": "{others: 2}",
    "defense.benign_selection": "second_half",
    "defense.benign_mode": "union",
    "defense.response_prefix": "'Reply: '",
    "task.on_bad_row": "drop",
    "task.verbalizer": "letters",
    "task.label_words": "[bad, good, poor, fine]",
    "task.answer_cue": "'Sentiment: '",
    "seed": "7",
    "suites": "[cue_grid]",
    "model": "random:qwen3-0.6b",
}
NOT_IDENTITY = {"task.source", "task.revision"}


# The same for the options that single tasks have beside those of every task.
OTHER_OF_TASKS: dict[str, dict[str, object]] = {
    "gsm8k": {"teach": "solution", "max_new_tokens": 9},
    "ape210k": {"max_new_tokens": 9},
    "scitldr": {"max_new_tokens": 9},
    "crrsum": {"max_new_tokens": 9},
    "hateful_memes": {"images": False},
    "custom": {
        "text_column": "body",
        "label_column": "mark",
        "label_names": ("b", "a"),
        "response_column": "reply",
        "input_column": "input",
        "chat_column": "messages",
        "image_column": "picture",
        "judge": "number",
        "characters": True,
        "max_new_tokens": 9,
        "dataset": "org/name",
        "config": "main",
        "train_split": "all",
        "test_split": "",
    },
}


NEEDED = {
    "attack.poison_selection": ["rows.order=file"],
    "attack.policy_response": ["task={name: gsm8k}", "attack.target_response='0.1'", "defense=none"],
    "rows.tune": ["rows.split=judge"],
    "defense.benign_patch": ["task=hateful_memes", "model=tiny_vl"],
    "defense.text_screening": [
        "task={name: gsm8k}",
        "attack.target_response='0.1'",
        "defense.benign_source=screened",
        "defense.response_prefix='It is: '",
    ],
    "train.method": ["train.lora={}"],
}
"""Other settings without which a value of OTHER is refused."""


def opened(path: Path, *overrides: str) -> Study:
    return open_study(path, [*OPENED, "task={name: rotten_tomatoes}", *overrides], path.parent / "runs")


def fields(model: type[BaseModel], prefix: str) -> set[str]:
    found: set[str] = set()
    for name, field in model.model_fields.items():
        nested = isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)
        found |= fields(field.annotation, f"{prefix}.{name}") if nested else {f"{prefix}.{name}"}  # type: ignore[arg-type]
    return found


@pytest.mark.usefixtures("with_data")
def test_every_field_changes_an_id(study_file: Callable[[], Path]) -> None:
    path = study_file()
    base = opened(path)
    before = base.expansion.runs[0].stages
    plugins = {"task": base.spec.task[0], "attack": base.spec.attack[0], "defense": base.spec.defense[0]}
    known = fields(TrainSpec, "train") | fields(RowsSpec, "rows") | {"seed", "model", "suites"}
    for axis, plugin in plugins.items():
        known |= fields(type(plugin), axis)
    assert known - NOT_IDENTITY == set(OTHER), (
        "classify the new field: give it another value in OTHER, or list it in NOT_IDENTITY"
    )
    for key, value in OTHER.items():
        needed = NEEDED.get(key, [])
        after = opened(path, f"{key}={value}", *needed).expansion.runs[0].stages
        assert after != (opened(path, *needed).expansion.runs[0].stages if needed else before), (
            f"{key} is not part of any id"
        )


@pytest.mark.parametrize("name", registry.names("tasks"))
def test_every_option_of_a_task_is_in_its_id(name: str) -> None:
    task = registry.load("tasks", name)
    common = {key.removeprefix("task.") for key in (*OTHER, *NOT_IDENTITY)}
    known = OTHER_OF_TASKS.get(name, {})
    assert set(task.model_fields) - common == set(known), "give the new option another value in OTHER_OF_TASKS"
    one = task()
    before = canonical(one.model_dump(exclude=set(one.place_fields)))
    for key, value in known.items():
        after = one.model_copy(update={key: value})
        assert canonical(after.model_dump(exclude=set(one.place_fields))) != before, f"{key} is not part of any id"


@pytest.mark.usefixtures("with_data")
def test_rows_of_a_source_have_other_ids_wherever_they_lie(
    study_file: Callable[[], Path], data_root: Path, tmp_path: Path
) -> None:
    """Their origin is unknown, so that they are not the published rows of the task; their place means nothing."""
    path, published = study_file(), data_root / "rotten_tomatoes"
    shutil.copytree(published, tmp_path / "copy")
    one, other = (opened(path, f"task.source={place}").expansion.runs[0] for place in (published, tmp_path / "copy"))
    assert one.stages == other.stages
    assert not set(one.stages) & set(opened(path).expansion.runs[0].stages)


@pytest.mark.usefixtures("with_data")
def test_what_is_not_identity(study_file: Callable[[], Path]) -> None:
    path = study_file()
    before = opened(path).expansion.runs[0].stages
    assert opened(path, "name=other", "description=words").expansion.runs[0].stages == before


def test_golden_id() -> None:
    spec: dict[str, Any] = {
        "train": TrainSpec().model_dump(),
        "lora": LoraSpec().model_dump(),
        "seed": 0,
        "model": {"source": "hub", "ref": "a/b"},
    }
    assert stage_id("train", spec, {"rows": "0123456789ab"}) == "2bb5d0c9fa81"


def test_none_means_off_and_keeps_the_id() -> None:
    assert stage_id("data", {"a": 1, "new": None}, {}) == stage_id("data", {"a": 1}, {})
    assert stage_id("data", {"a": {"new": None}}, {}) == stage_id("data", {"a": {}}, {})


def test_order_of_keys_and_list_type_do_not_matter() -> None:
    assert canonical({"b": (1, 2), "a": 1.5}) == canonical({"a": 1.5, "b": [1, 2]})


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {1: 2}, {1, 2}, Path("x"), lambda: 0, [None]])
def test_no_stable_bytes_no_id(value: object) -> None:
    with pytest.raises(TypeError):
        canonical({"a": value})


def test_an_edited_spec_is_noticed() -> None:
    stage = Stage("data", {"a": 1})
    assert Stage.from_json(stage.to_json()) == stage
    with pytest.raises(ValueError, match="edited"):
        Stage.from_json({**stage.to_json(), "spec": {"a": 2}})
