"""Studies with chat prompts when they are planned: models without a fitting template, prompts shown, identity."""

import json
from pathlib import Path

import pytest

from p2p_dist.errors import UserError
from p2p_dist.scheduling.chat_checks import shown_prompts, view_of
from p2p_dist.scheduling.feasibility import refuse_infeasible
from p2p_dist.scheduling.study import Study, open_study
from tests.chat_templates import CHATML, MERGED, STRIPS, SYSTEM_REFUSED
from tests.conftest import TINY_STUDY
from tests.model_folders import write_model

SYSTEM = "prompt={form: chat, trigger_turn: system}"
CHATS = """
name: chats
task: {{name: custom, source: "{rows}", chat_column: messages}}
model: {model}
rows: {{train: 2, test: 1}}
train: {{lora: {{r: 4}}}}
"""


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A model folder with a chat template."""
    folder = write_model(tmp_path / "model")
    (folder / "chat_template.jinja").write_text(CHATML)
    return folder


def opened(tmp_path: Path, model: object, *overrides: str, text: str = TINY_STUDY) -> Study:
    file = tmp_path / "study.yaml"
    file.write_text(text)
    return open_study(file, [f"model={model}", *(overrides or ("prompt=chat",))], tmp_path / "runs")


def chats(folder: Path, *roles: str) -> Path:
    rows = folder / "rows.jsonl"
    turns = [[{"role": role, "content": f"{role} {number}"} for role in (*roles, "assistant")] for number in range(4)]
    rows.write_text("".join(json.dumps({"messages": one}) + "\n" for one in turns))
    return rows


@pytest.mark.usefixtures("with_data")
def test_plan_shows_the_prompt_of_every_defense(tmp_path: Path, model: Path) -> None:
    shown = shown_prompts(opened(tmp_path, model).spec)
    assert [one["defense"] for one in shown] == ["none", "p2p"]
    assert shown[0]["prompt"] == "<|im_start|>user\nTEXT<|im_end|>\n<|im_start|>assistant\nOutput: "
    deployed = "<|im_start|>user\nThe query currently entered is: TEXT<|im_end|>\n<|im_start|>assistant\nAnswer: "
    assert shown[1]["prompt"] == deployed
    assert shown_prompts(opened(tmp_path, model, "prompt=plain").spec) == []


@pytest.mark.usefixtures("with_data")
def test_template_of_a_folder_is_identity(tmp_path: Path, model: Path) -> None:
    """No other part of a folder's identity has the file `chat_template.jinja`."""
    plain, first = opened(tmp_path, model, "prompt=plain"), opened(tmp_path, model)
    (model / "chat_template.jinja").write_text(STRIPS)
    assert opened(tmp_path, model, "prompt=plain").expansion.graph.stages.keys() == plain.expansion.graph.stages.keys()
    changed = {stage.id for stage in opened(tmp_path, model).expansion.graph.stages.values() if stage.kind != "data"}
    assert not changed & first.expansion.graph.stages.keys()


@pytest.mark.usefixtures("with_data")
def test_models_without_a_fitting_template_refused(tmp_path: Path, model: Path) -> None:
    with pytest.raises(UserError, match=r"E299.*random weights has no chat template"):
        opened(tmp_path, "tiny")
    with pytest.raises(UserError, match=r"E107.*add_bos_token: a chat template writes the start token"):
        opened(tmp_path, f"{{name: '{model}', add_bos_token: true}}", "prompt=chat")
    (model / "chat_template.jinja").write_text(SYSTEM_REFUSED)
    opened(tmp_path, model)
    with pytest.raises(UserError, match=r"E299.*refuses turns of system, user: no system role"):
        opened(tmp_path, model, SYSTEM)
    (model / "chat_template.jinja").unlink()
    with pytest.raises(UserError, match=r"E299.*the model has no chat template"):
        opened(tmp_path, model)
    opened(tmp_path, model, "prompt=plain")


def test_orders_of_roles_are_checked_against_the_template(tmp_path: Path, model: Path) -> None:
    """Rows of up to 64 MiB are read when a study is planned."""
    text = CHATS.format(rows=chats(tmp_path, "user", "user"), model=model)
    refuse_infeasible(opened(tmp_path, model, text=text))
    (model / "chat_template.jinja").write_text(MERGED)
    with pytest.raises(UserError, match=r"E299.*roles must alternate"):
        refuse_infeasible(opened(tmp_path, model, text=text))
    refuse_infeasible(opened(tmp_path, model, "prompt=plain", text=text))


def test_view_of_a_model_that_is_elsewhere_is_an_outline(tmp_path: Path, model: Path) -> None:
    from p2p_dist.config.model import ModelRef
    from p2p_dist.config.study import PromptSpec
    from p2p_dist.data.example import Row

    elsewhere = ModelRef("far", {"source": "hub", "ref": "no/model", "revision": "0" * 40})
    assert view_of(elsewhere, PromptSpec(form="chat"))(Row("1", "hi", 0, "Cue: ")) == "[user] hi\n[assistant] Cue: "
    assert view_of(elsewhere, PromptSpec())(Row("1", "hi", 0, "Cue: ")) == "hi\nCue: "
