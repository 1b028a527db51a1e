"""Every plug-in is enrolled by its file alone and keeps its contract."""

import inspect
import json
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from random import Random
from tempfile import mkdtemp
from typing import Any

import pytest
from pydantic import ValidationError

from p2p_dist import registry
from p2p_dist.config.builder import Builder
from p2p_dist.config.graph import Graph
from p2p_dist.config.run_settings import Settings
from p2p_dist.config.study import RowsSpec, TrainSpec
from p2p_dist.data.attack import Attack, DirtyLabelAttack
from p2p_dist.data.attacks.patch import PatchAttack
from p2p_dist.data.build import build_attacked, build_defended
from p2p_dist.data.defense import DataDefense, DefenderView, Defense
from p2p_dist.data.example import NO_LABEL, RawRow, examples
from p2p_dist.data.paraphrases import key_of, write_table
from p2p_dist.data.prompts import answer, prompt
from p2p_dist.data.task import Task
from p2p_dist.data.tasks.custom import Custom
from p2p_dist.data.tasks.gsm8k import Gsm8k
from p2p_dist.errors import UserError
from p2p_dist.results.mirror import Mirror
from p2p_dist.scheduling.backend import Backend
from tests.rows import sentences

BASES = {"tasks": Task, "attacks": Attack, "defenses": Defense, "backends": Backend, "mirrors": Mirror}
RAW: Mapping[str, Sequence[tuple[str, int]]] = {
    "train": [(str(row["text"]), int(row["label"])) for row in sentences(300)],
    "test": [(str(row["text"]), int(row["label"])) for row in sentences(40, 5)],
}
RESPONSES = {split: [RawRow(text, response=f"{label} of 5") for text, label in rows] for split, rows in RAW.items()}
ROWS = RowsSpec(reserve=100)
NEED_IMAGES = (PatchAttack,)
"""Attacks that are made on rows with images alone."""


def options(plugin: type) -> dict[str, Any]:
    """What a plug-in needs to be told because it has no default."""
    name = plugin.__module__.rpartition(".")[2]
    if "table" in plugin.model_fields:  # type: ignore[attr-defined]
        return {"table": str(paraphrase_table())}
    return {"custom": {"label_names": ("0", "1")}}.get(name, {})


def rewrites_without_a_model(one: Defense) -> bool:
    """Whether a defense rewrites training rows and asks no model before it does."""
    models = {option: ({"source": "random"}, {}) for option in one.model_options}
    settings = Settings(
        {}, registry.load("attacks", "none")(), {}, {}, {"source": "random"}, TrainSpec().model_dump(), 0, {}, models
    )
    build = Builder(Graph(), settings)
    one.stages(build, build.attacked(None))
    rewrites = [stage for stage in build.graph.stages.values() if stage.spec.get("step") == "defend"]
    return bool(rewrites) and all(set(stage.reads) == {"rows"} for stage in rewrites)


@cache
def paraphrase_table() -> Path:
    """A table that has every invented sentence but one."""
    path = Path(mkdtemp()) / "table.jsonl"
    texts = [text for split in RAW.values() for text, _ in split]
    write_table(
        path,
        (
            {"key": key_of(text), "output": f"when it ends , {text}", "generator": "test", "ok": at > 0}
            for at, text in enumerate(texts)
        ),
    )
    return path


def plugins(kind: str) -> list[Any]:
    return [registry.load(kind, name) for name in registry.names(kind)]


@pytest.mark.parametrize("kind", sorted(registry.PACKAGES))
def test_plugin_file_has_class_and_docstring(kind: str) -> None:
    for plugin in plugins(kind):
        assert issubclass(plugin, BASES[kind])
        assert plugin.__doc__


@pytest.mark.parametrize("kind", ["attacks", "defenses"])
def test_plugin_defaults_load_and_unknown_option_refused(kind: str) -> None:
    for plugin in plugins(kind):
        assert registry.name_of(plugin(**options(plugin))) in registry.names(kind)
        with pytest.raises(ValidationError):
            plugin(**options(plugin), no_such_option=1)


def test_load_unknown_name_suggests_nearest() -> None:
    with pytest.raises(UserError, match="did you mean 'badnets'"):
        registry.load("attacks", "badnet")


@pytest.mark.parametrize("attack", plugins("attacks"), ids=registry.names("attacks"))
def test_attack_contract(attack: type[Attack]) -> None:
    one = attack(**options(attack))
    if not isinstance(one, DirtyLabelAttack):
        return
    rows = examples(RAW["train"])
    before = list(rows)
    assert one.poison(rows, 1) == one.poison(rows, 1)
    assert rows == before
    assert {note.id for note in one.poison(rows, 1)[1]} != {note.id for note in one.poison(rows, 2)[1]}
    text = rows[5].text
    assert one.trigger(text, Random(0)) == one.trigger(text, Random(0)) is not None
    assert one.target_label not in {ex.label for ex in one.test_suite(rows, 1)[0]}


@pytest.mark.parametrize("task", plugins("tasks"), ids=registry.names("tasks"))
def test_task_contract(task: type[Task]) -> None:
    one = task(**options(task))
    assert one.hub is None or one.hub.revision is None or len(one.hub.revision) == 40
    assert one.licence
    assert one.metrics
    raw = RAW if one.kind == "classification" else RESPONSES
    built = build_attacked(one, raw, ROWS, registry.load("attacks", "none")(), None)
    assert built.kind == one.kind
    assert prompt(built.train[0]).endswith(one.answer_cue)
    assert answer(built.train[0], built.labels.words)
    if one.kind == "generation":
        assert one.labels == ()
        return
    assert len(one.labels) > 1
    for verbalizer in ("numeric", "letters", *(["words"] if one.own_words else [])):
        words = task(**options(task), verbalizer=verbalizer).words(2 * len(one.labels))
        assert len(set(words)) == 2 * len(one.labels), "P2P needs as many words again"


@pytest.mark.parametrize("task", plugins("tasks"), ids=registry.names("tasks"))
def test_task_docstring_row_renders_to_its_prompt(task: type[Task]) -> None:
    """The docstring of a task has an indented row (JSON) and, behind a blank line, its prompt with the answer."""
    docstring = inspect.getdoc(sys.modules[task.__module__]) or ""
    indented = [line.removeprefix("    ") for line in docstring.splitlines() if line.startswith("    ")]
    assert len(indented) == 3, "a row, a text and an answer"
    one = Custom(label_names=("delivery", "payment")) if task is Custom else task()
    raw = {split: [one.check(json.loads(indented[0]))] for split in ("train", "test")}
    built = build_attacked(one, raw, RowsSpec(), registry.load("attacks", "none")(), None)
    row = built.train[0]
    assert prompt(row) + answer(row, built.labels.words) == "\n".join(indented[1:])


@pytest.mark.parametrize("attack", plugins("attacks"), ids=registry.names("attacks"))
def test_attack_on_generation_task(attack: type[Attack]) -> None:
    one = attack(**options(attack))
    if not isinstance(one, DirtyLabelAttack):
        return
    given = {"target_response": "say this", "label_policy": "dirty"}
    task = Custom(image_column="img", response_column="reply") if attack in NEED_IMAGES else Gsm8k()
    built = build_attacked(task, RESPONSES, ROWS, one.model_copy(update=given), 0)
    poisoned = {note.id for note in built.notes if note.origin == "poisoned"}
    assert poisoned
    assert {row.id for row in built.train if row.response == "say this"} == poisoned
    assert all(row.label == NO_LABEL for row in built.train)
    assert all(row.response and row.label == NO_LABEL for suite in built.suites.values() for row in suite.rows)


@pytest.mark.parametrize("defense", plugins("defenses"), ids=registry.names("defenses"))
def test_defense_is_blind_to_origin(defense: type[Defense]) -> None:
    one = defense(**options(defense))
    if not isinstance(one, DataDefense) or not rewrites_without_a_model(one):
        return
    task = registry.load("tasks", "sst2")()
    attacked = build_attacked(task, RAW, ROWS, registry.load("attacks", "badnets")(rate=0.1), 0)
    view = DefenderView(attacked.train, attacked.reserve, 2, 0)
    flipped = DefenderView(attacked.train, attacked.reserve, 2, 0, {row.id: "poisoned" for row in attacked.train})
    assert one.reads_origin is False, "the default of a defense must not look at origin"
    assert one.defend_train(view) == one.defend_train(flipped)
    assert one.defend_train(view) == one.defend_train(DefenderView(attacked.train[::-1], attacked.reserve[::-1], 2, 0))
    built = build_defended(attacked, task, one, 0)
    assert len({row.id for row in built.train}) == len(built.train)
    assert all(0 <= row.label < len(built.labels.words) for row in built.train)
