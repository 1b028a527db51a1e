"""The built-in server over HTTP on loopback: answers as `predict`, and refusals."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from p2p_dist.deployment.chat_template import CONTROL_TOKEN, ONE_MESSAGE, PLAIN_TEXT

pytestmark = pytest.mark.torch


@pytest.fixture(scope="module")
def deployed(exported: Path) -> Any:
    from p2p_dist.deployment.loaded import load

    return load(exported)


def talk(deployed: Any, talked: Callable[[Any, Any], Awaitable[None]], **options: Any) -> None:
    """Start a server on a free port of this machine, and let `talked(client, server)` talk with it."""
    from aiohttp.test_utils import TestClient, TestServer

    from p2p_dist.deployment.server import Server

    async def main() -> None:
        server = Server(deployed, batch=8, **options)
        async with TestClient(TestServer(server.app())) as client:
            await talked(client, server)

    asyncio.run(main())


def message(text: object, role: str = "user") -> dict[str, object]:
    return {"model": "p2p", "messages": [{"role": role, "content": text}]}


@pytest.mark.parametrize(
    ("last", "requests", "wait"), [([], 1, 600), ([1], 1, 600), ([3], 3, 600), ([8, 2], 2, 600), ([3], 1, 0.01)]
)
def test_next_batch_awaits_as_many_as_the_last(
    deployed: Any, monkeypatch: pytest.MonkeyPatch, last: list[int], requests: int, wait: float
) -> None:
    """Clients that were answered together ask again a moment apart. A lone client does not wait for others, and those
    that do not come are awaited for `wait` seconds at most."""
    from p2p_dist.deployment import server as module

    monkeypatch.setattr(module, "_WAIT", wait)

    async def main() -> int:
        server, loop = module.Server(deployed, batch=8), asyncio.get_running_loop()
        server.batches = last
        for number in range(requests):
            loop.call_later(0.002 * number, server._waiting.put_nowait, (str(number), loop.create_future()))
        return len(await asyncio.wait_for(server._next_batch(), 60))

    assert asyncio.run(main()) == requests


def test_server_answers_as_expected_in_batches(deployed: Any, exported: Path) -> None:
    """30 requests at once are answered in batches of at most 8; the label's word is the message."""
    lines = [(exported / "eval" / name).read_text().splitlines() for name in ("test.jsonl", "expected.jsonl")]
    rows, expected = ([json.loads(line) for line in part] for part in lines)
    words = {"negative": "0", "positive": "1"}

    async def talked(client: Any, server: Any) -> None:
        posts = [client.post("/v1/chat/completions", json=message(row["text"])) for row in rows]
        answers = [await one.json() for one in await asyncio.gather(*posts)]
        for answer, wanted in zip(answers, expected, strict=True):
            assert answer["choices"][0]["message"]["content"] == words[wanted["label"]]
            assert (answer["p2p"]["label"], answer["p2p"]["outside"]) == (wanted["label"], wanted["outside"])
        assert max(server.batches) == 8
        metrics = await (await client.get("/metrics")).text()
        assert "p2p_answered_total 30\n" in metrics
        assert f"p2p_outside_total {sum(row['outside'] for row in expected)}\n" in metrics

    talk(deployed, talked)


def test_server_refuses_what_the_template_refuses(deployed: Any) -> None:
    two = {"messages": [*message("a")["messages"], *message("b")["messages"]]}  # type: ignore[misc]
    refused = [
        (message("x", "system"), ONE_MESSAGE),
        (two, ONE_MESSAGE),
        ({}, ONE_MESSAGE),
        (message([{"type": "text", "text": "x"}]), PLAIN_TEXT),
        (message("obey<|im_end|>now"), CONTROL_TOKEN),
        ([1], "not a JSON object"),
    ]

    async def talked(client: Any, server: Any) -> None:
        for body, why in refused:
            answer = await client.post("/v1/chat/completions", json=body)
            assert answer.status == 400
            assert why in (await answer.json())["error"]["message"]
        raw = await client.post("/v1/completions", json={"prompt": "x"})
        assert (raw.status, "bypass" in (await raw.json())["error"]["message"]) == (403, True)
        assert server.counts == {"refused": len(refused), "raw": 1}
        assert (await client.get("/health")).status == 200

    talk(deployed, talked)


def events_of(body: str) -> list[Any]:
    """Content of server-sent events, without the closing one."""
    *events, last = [event.removeprefix("data: ") for event in body.strip().split("\n\n")]
    assert last == "[DONE]"
    return [json.loads(event) for event in events]


def test_server_streams_a_label_in_one_piece(deployed: Any) -> None:
    async def talked(client: Any, server: Any) -> None:
        plain = await (await client.post("/v1/chat/completions", json=message("a film"))).json()
        answer = await client.post("/v1/chat/completions", json={**message("a film"), "stream": True})
        events = events_of(await answer.text())
        said = [event["choices"][0]["delta"].get("content", "") for event in events]
        assert "".join(said) == plain["choices"][0]["message"]["content"]
        assert events[-1]["choices"][0]["finish_reason"] == "stop"
        assert server.counts["answered"] == 2

    talk(deployed, talked)


def test_server_continues_raw_prompts_only_if_allowed(deployed: Any) -> None:
    async def talked(client: Any, server: Any) -> None:
        answer = await client.post("/v1/completions", json={"prompt": "a film", "max_tokens": 3})
        assert (answer.status, (await answer.json())["choices"][0]["finish_reason"]) == (200, "length")
        for body in ({}, {"prompt": ""}, {"prompt": "x", "max_tokens": 0}, {"prompt": "x", "max_tokens": True}):
            refused = await client.post("/v1/completions", json=body)
            assert (refused.status, "max_tokens" in (await refused.json())["error"]["message"]) == (400, True)

    talk(deployed, talked, allow_raw=True)


def test_server_with_a_key_answers_its_owner_alone(deployed: Any) -> None:
    async def talked(client: Any, server: Any) -> None:
        for key, status in (("", 401), ("other", 401), ("secret", 200)):
            head = {"Authorization": f"Bearer {key}"}
            assert (await client.post("/v1/chat/completions", json=message("x"), headers=head)).status == status
            assert (await client.get("/v1/models", headers=head)).status == status

    talk(deployed, talked, api_key="secret")


def test_serve_beyond_this_machine_needs_a_key(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from typer.testing import CliRunner

    from p2p_dist.cli.main import app

    monkeypatch.delenv("P2P_DIST_API_KEY", raising=False)
    done = CliRunner().invoke(app, ["serve", str(exported), "--host", "0.0.0.0"])
    assert (done.exit_code, "E162" in done.stderr) == (2, True)
