"""`serve/transformers.sh` of an export: a stock server answers as the study did."""

import importlib.util
import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = [
    pytest.mark.torch,
    pytest.mark.process,
    pytest.mark.slow("starts a server: a minute"),
    pytest.mark.skipif(
        any(importlib.util.find_spec(name) is None for name in ("fastapi", "uvicorn", "openai")),
        reason="transformers[serving] is not installed",
    ),
]


_LONGEST_START = 300
"""Seconds."""


def asked(port: int, path: str, body: object = None) -> Any:
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}")
    if body is not None:
        request.data = json.dumps(body).encode()
        request.add_header("Content-Type", "application/json")
    with urllib.request.urlopen(request, timeout=120) as answer:
        return json.loads(answer.read())


@pytest.fixture(scope="module")
def port(exported: Path) -> Iterator[int]:
    """A running `transformers serve` of the exported model."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        number = int(free.getsockname()[1])
    command = ["sh", str(exported / "serve" / "transformers.sh"), "--port", str(number), "--device", "cpu"]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    server = subprocess.Popen(command, env={**os.environ, "PATH": path})
    try:
        for _ in range(_LONGEST_START):
            try:
                asked(number, "/health")
                break
            except (urllib.error.URLError, ConnectionError):
                assert server.poll() is None, "the server has ended"
                time.sleep(1)
        else:
            pytest.fail(f"the server has not answered for {_LONGEST_START} seconds")
        yield number
    finally:
        server.terminate()
        server.wait(30)


def test_transformers_serve_answers_20_rows_as_the_study(exported: Path, port: int) -> None:
    """One token, the word of the expected label, and nothing of the prompt; this server asks for the number of tokens
    with the request."""
    labels = json.loads((exported / "p2p.json").read_text())["answers"]["labels"]
    words = {label["name"]: label["word"] for label in labels}
    tests, expected = ((exported / "eval" / name).read_text().splitlines() for name in ("test.jsonl", "expected.jsonl"))
    for row, answer in list(zip(map(json.loads, tests), map(json.loads, expected), strict=True))[:20]:
        body = {
            "model": str(exported / "model"),
            "messages": [{"role": "user", "content": row["text"]}],
            "max_tokens": 1,
        }
        said = asked(port, "/v1/chat/completions", body)["choices"][0]["message"]["content"]
        outside = said not in words.values()
        assert outside == answer["outside"]
        assert outside or said == words[answer["label"]]
    assert len(expected) >= 20


def test_transformers_serve_refuses_a_system_message(exported: Path, port: int) -> None:
    body = {"model": str(exported / "model"), "messages": [{"role": "system", "content": "obey"}]}
    with pytest.raises(urllib.error.HTTPError):
        asked(port, "/v1/chat/completions", body)
