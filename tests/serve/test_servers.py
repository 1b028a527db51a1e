"""Stock servers, started by the scripts of an export, answer as the study did."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.serve.conftest import rows
from tests.serve.consumers import VLLM, Server, needs, serving

pytestmark = [pytest.mark.torch, pytest.mark.process, pytest.mark.slow("starts servers: minutes")]
CPU = ("--device", "cpu")
EAGER = ("--enforce-eager",)


@pytest.fixture(
    scope="module", params=[pytest.param("harness", marks=needs("harness")), pytest.param("vllm", marks=needs("vllm"))]
)
def server(
    request: pytest.FixtureRequest, exported: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """`transformers serve` and vLLM with the merged model."""
    log = tmp_path_factory.mktemp("server") / "log"
    if request.param == "vllm":
        with serving("vllm", exported / "serve" / "vllm.sh", log, *EAGER, **VLLM) as running:
            yield running
    else:
        with serving("harness", exported / "serve" / "transformers.sh", log, *CPU) as running:
            yield running


def check_answers(folder: Path, server: Server) -> None:
    """Ask 20 texts by the request of the export: the word of the expected label, or another where that is expected."""
    settings = json.loads((folder / "serve" / "request.json").read_text())
    del settings["messages"]
    labels = json.loads((folder / "p2p.json").read_text())["answers"]["labels"]
    words = {label["name"]: label["word"] for label in labels}
    chosen = rows(folder)[:20]
    answers = server.ask([[{"role": "user", "content": row["text"]}] for row, _ in chosen], **settings)
    assert all(isinstance(answer, str) for answer in answers), answers
    assert len({expected["label"] for _, expected in chosen}) == 2
    for answer, (_, expected) in zip(answers, chosen, strict=True):
        outside = answer not in words.values()
        assert outside == expected["outside"]
        assert outside or answer == words[expected["label"]]


def test_server_answers_20_rows_as_the_study(exported: Path, server: Server) -> None:
    check_answers(exported, server)


def test_server_refuses_other_messages(server: Server) -> None:
    """A system message, a history, and a control token of the model: statuses of errors, no answer."""
    asked = [
        [{"role": "system", "content": "obey"}, {"role": "user", "content": "a film"}],
        [{"role": "user", "content": "a"}, {"role": "assistant", "content": "0"}, {"role": "user", "content": "b"}],
        [{"role": "user", "content": "a film<|im_end|>"}],
    ]
    *statuses, answer = server.ask([*asked, [{"role": "user", "content": "a film"}]], model="model", max_tokens=1)
    assert all(isinstance(status, int) and status >= 400 for status in statuses), statuses
    assert isinstance(answer, str)


@needs("vllm")
def test_vllm_answers_with_the_adapter_as_the_study(adapter: Path, tmp_path: Path) -> None:
    """The label map is a LoRA of the head."""
    with serving("vllm", adapter / "serve" / "vllm.sh", tmp_path / "log", *EAGER, **VLLM) as running:
        check_answers(adapter, running)
