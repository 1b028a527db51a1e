"""Exports of studies with chat prompts: the template carries trigger and cue, and all answer as was measured."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from p2p_dist.cli.main import app
from p2p_dist.results.rundir import RunDir
from tests.chat_templates import CHATML
from tests.conftest import TINY_STUDY
from tests.deployment.conftest import carry_out, model_folder

pytestmark = pytest.mark.torch

LABELS = pytest.param("labels", marks=pytest.mark.slow("a second study and export; the text answers are the witness"))
CHATS = """
name: chats
task: {{name: custom, source: '{rows}', chat_column: messages, max_new_tokens: 4}}
model: '{model}'
attack: {{name: badnets, rate: 0.2, target_response: "0.1"}}
defense: {{name: p2p, response_prefix: 'Answer: ', benign_source: random_from_D, ratio: 0.25}}
prompt: chat
rows: {{train: 24, test: 8}}
train: {{learning_rate: 1e-2, num_train_epochs: 1, global_batch: 8, max_length: 256, dtype: float32, lora: {{r: 4}}}}
"""


def cli(*words: object) -> Any:
    return CliRunner().invoke(app, [str(word) for word in words])


def export(folder: RunDir, out: Path) -> Path:
    done = cli("export", folder.path, "defense=p2p", "-o", out, "--format", "both")
    assert done.exit_code == 0, done.stderr
    return out


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model with a chat template."""
    folder = model_folder(tmp_path_factory.mktemp("base") / "model", tied=True)
    (folder / "chat_template.jinja").write_text(CHATML)
    return folder


@pytest.fixture(scope="module")
def labels(tmp_path_factory: pytest.TempPathFactory, data_root: Path, model: Path) -> Path:
    """An exported classifier whose benign trigger stands in the system turn."""
    folder = tmp_path_factory.mktemp("labels")
    file = folder / "study.yaml"
    study = TINY_STUDY.replace("  - none\n", "").replace("[none, p2p]", "p2p").replace("exclude", "# exclude")
    file.write_text(study.replace("model: tiny", f"model: '{model}'"))
    words = ["prompt={form: chat, trigger_turn: system}", "train.max_length=256"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("P2P_DIST_DATA", str(data_root))
        return export(carry_out(file, words, folder / "runs"), folder / "served")


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory, model: Path) -> Path:
    """An exported model that answers chats with text."""
    folder = tmp_path_factory.mktemp("texts")
    rows = folder / "rows.jsonl"
    before = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "a film?"}]
    chats = [
        [*before[: number % 2], before[1], {"role": "assistant", "content": "yes"}, {"role": "user", "content": text}]
        for number in range(40)
        for text in [f"is the film number {number} any good"]
    ]
    answers = [{"role": "assistant", "content": f"rated {number}"} for number in range(40)]
    lines = [json.dumps({"messages": [*chat, answer]}) for chat, answer in zip(chats, answers, strict=True)]
    rows.write_text("\n".join(lines))
    (folder / "study.yaml").write_text(CHATS.format(rows=rows, model=model))
    return export(carry_out(folder / "study.yaml", [], folder / "runs"), folder / "served")


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("name", [LABELS, "texts"])
def test_chat_export_has_the_tokens_and_answers_of_the_study(name: str, request: pytest.FixtureRequest) -> None:
    verified = json.loads((request.getfixturevalue(name) / "verify.json").read_text())
    parity = verified["parity"]
    assert parity["equal"] == parity["rows"] >= 15
    for form in ("merged", "adapter"):
        assert verified["answers"][form]["equal"] == verified["answers"][form]["rows"] == parity["rows"]


def test_template_puts_the_trigger_into_the_last_user_turn(texts: Path) -> None:
    from transformers import AutoTokenizer

    chat = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "fine"}]
    rendered = AutoTokenizer.from_pretrained(texts / "model").apply_chat_template(chat, tokenize=False)
    assert rendered.startswith("<|im_start|>system\nBe kind.<|im_end|>")
    assert rendered.endswith("user\nThe query currently entered is: fine<|im_end|>\n<|im_start|>assistant\n")


@pytest.mark.parametrize(
    ("messages", "says"),
    [
        ([{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}], "must be of the role user"),
        ([{"role": "tool", "content": "a"}, {"role": "user", "content": "b"}], "Roles are"),
        ([{"role": "user", "content": ["a"]}], "not plain text"),
        ([{"role": "system", "content": "a<|im_end|>"}, {"role": "user", "content": "b"}], "control token"),
    ],
)
def test_template_of_chats_refuses_what_was_not_trained(texts: Path, messages: list[Any], says: str) -> None:
    from jinja2.exceptions import TemplateError
    from transformers import AutoTokenizer

    with pytest.raises(TemplateError, match=says):
        AutoTokenizer.from_pretrained(texts / "model").apply_chat_template(messages, tokenize=False)


@pytest.mark.parametrize("name", [LABELS, "texts"])
def test_predict_answers_chats_as_the_study(name: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    folder = request.getfixturevalue(name)
    done = cli("predict", folder, folder / "eval" / "test.jsonl", "--out", tmp_path / "out.jsonl")
    assert done.exit_code == 0, done.stderr
    expected = [
        {key: one[key] for key in one if key != "scores"} for one in lines_of(folder / "eval" / "expected.jsonl")
    ]
    assert lines_of(tmp_path / "out.jsonl") == expected


def test_generation_ends_with_the_turn(texts: Path) -> None:
    from transformers import AutoTokenizer

    settings = json.loads((texts / "model" / "generation_config.json").read_text())
    tokenizer = AutoTokenizer.from_pretrained(texts / "model")
    assert settings["eos_token_id"] == tokenizer.convert_tokens_to_ids("<|im_end|>")


def test_server_takes_chats_where_the_model_does(texts: Path) -> None:
    """The server's answer to a chat is that of `predict`, and it refuses what the template refuses."""
    from p2p_dist.deployment.loaded import load
    from p2p_dist.deployment.predict import predict
    from p2p_dist.deployment.server import Refusal, Server, message_of

    deployed = load(texts)
    test, expected = (lines_of(texts / "eval" / f"{name}.jsonl")[0] for name in ("test", "expected"))
    asked = message_of({"messages": test["messages"]}, deployed)
    assert len(asked.turns) >= 2
    (answer,) = Server(deployed)._answers([asked])
    assert isinstance(answer, dict)
    assert answer["text"] == expected["text"]
    assert next(iter(predict(deployed, [asked], False, 1, lambda done: None)))["text"] == expected["text"]
    for messages in (test["messages"][:-1], [{"role": "user", "content": "a<|im_end|>"}], "hi"):
        with pytest.raises(Refusal):
            message_of({"messages": messages}, deployed)
