"""The option `prompt` of a study: its forms, and its place in the identity."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from p2p_dist.config.expand import expand
from p2p_dist.config.graph import Graph
from p2p_dist.config.load import load_study
from p2p_dist.config.stages import AttackStage, parse
from p2p_dist.config.study import PLAIN_PROMPT, PromptSpec, StudySpec
from p2p_dist.data.sources import Source
from tests.conftest import TINY_STUDY

MODELS = Path(__file__).parents[2] / "configs" / "models"


def study(tmp_path: Path, *overrides: str) -> StudySpec:
    file = tmp_path / "study.yaml"
    file.write_text(TINY_STUDY)
    return load_study(file, overrides, MODELS)


def graph(spec: StudySpec) -> Graph:
    return expand(spec, [Source("files", "/rows", "0" * 12)], {}).graph


def test_form_may_stand_alone_or_with_options(tmp_path: Path) -> None:
    assert study(tmp_path).prompt == study(tmp_path, "prompt=plain").prompt == PLAIN_PROMPT
    assert study(tmp_path, "prompt=chat").prompt == PromptSpec(form="chat")
    assert study(tmp_path, "prompt={form: chat, trigger_turn: system}").prompt.trigger_turn == "system"


def test_plain_prompts_leave_every_id_and_spec(tmp_path: Path) -> None:
    plain = graph(study(tmp_path))
    assert list(graph(study(tmp_path, "prompt=plain")).stages) == list(plain.stages)
    assert not [stage for stage in plain.stages.values() if "prompt" in stage.spec]


def test_chat_prompts_are_other_stages_with_their_settings(tmp_path: Path) -> None:
    plain, user, system = (
        graph(study(tmp_path, *words))
        for words in ((), ("prompt=chat",), ("prompt={form: chat, trigger_turn: system}",))
    )
    assert not plain.stages.keys() & user.stages.keys()
    assert not user.stages.keys() & system.stages.keys()
    rows = next(parse(stage) for stage in user.stages.values() if stage.spec.get("step") == "attack")
    assert isinstance(rows, AttackStage)
    assert rows.stage.spec["prompt"] == {
        "form": "chat",
        "trigger_turn": "user",
        "thinking": False,
        "date": "2024-07-26",
    }
    assert rows.prompt == PromptSpec(form="chat")


def test_trigger_turn_of_plain_prompts_refused() -> None:
    with pytest.raises(ValidationError, match="trigger_turn is for form: chat"):
        PromptSpec(trigger_turn="system")
