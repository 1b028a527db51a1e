"""Requests per second of the built-in server with 16 clients, against the same requests one by one, against the
arithmetic alone, and against another server; and rows per second of `predict`, against the evaluation of a study.

`python -m bench.serve DIR` in the project's root, DIR being a folder of `p2p-dist export`; `--beside URL` names a
running server, such as that of DIR/serve/transformers.sh (http://127.0.0.1:8000). All sides take turns; the clock is
the wall's, because servers answer in other threads and processes.
"""

import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bench import common

if TYPE_CHECKING:
    from p2p_dist.deployment.loaded import Deployed

GOAL = 5.0
LEAST_SHARE = 0.9
CLIENTS = 16
ONE, MANY, BESIDE = "one by one", f"{CLIENTS} clients", f"{CLIENTS} clients of the other server"
ROWS, BATCHES = "rows without a server, one by one", f"rows without a server, {CLIENTS} at a time"
PREDICTED, EVALUATED = "predict", "the evaluation of the same rows"
AT_ONCE = 1024
"""Rows that `predict` answers at a time unless it is told otherwise."""
PATH = "/v1/chat/completions"
Ask = Callable[[str], Awaitable[str]]


@dataclass(frozen=True)
class Measured:
    """Seconds of every turn of all sides, answers of the sides over HTTP, and sizes of batches."""

    times: common.Times
    answers: dict[str, list[str]]
    batches: list[int]


async def _one_by_one(ask: Ask, texts: Sequence[str]) -> list[str]:
    return [await ask(text) for text in texts]


async def _together(ask: Ask, texts: Sequence[str]) -> list[str]:
    """Answers to all texts, of which `CLIENTS` wait at a time."""
    free = asyncio.Semaphore(CLIENTS)

    async def of_client(text: str) -> str:
        async with free:
            return await ask(text)

    return list(await asyncio.gather(*(of_client(text) for text in texts)))


def _rows(deployed: "Deployed", texts: Sequence[str], batch: int) -> None:
    from p2p_dist.deployment.predict import predict
    from p2p_dist.deployment.prediction_files import Input

    list(predict(deployed, [Input("", text) for text in texts], True, batch, lambda done: None))


def _evaluated(deployed: "Deployed", texts: Sequence[str]) -> None:
    from p2p_dist.data.built import Suite
    from p2p_dist.deployment.answers import row_of
    from p2p_dist.evaluation.label_scoring import score_suite

    rows = [row_of(text, deployed.contract.prompt, False, str(index)) for index, text in enumerate(texts)]
    score_suite(deployed.base, deployed.encoder, Suite(rows, 0, False), lambda done: None)


async def measure(folder: Path, texts: Sequence[str], repeats: int, beside: str | None) -> Measured:
    """Take turns with all sides."""
    import aiohttp
    from aiohttp.test_utils import TestClient, TestServer

    from p2p_dist.deployment.loaded import load
    from p2p_dist.deployment.server import Server

    request = json.loads((folder / "serve" / "request.json").read_bytes())
    deployed = load(folder)
    server = Server(deployed, CLIENTS)
    times: common.Times = {}
    by_side: dict[str, list[str]] = {}
    async with TestClient(TestServer(server.app())) as client, aiohttp.ClientSession() as session:

        async def ask(text: str) -> str:
            body = {**request, "messages": [{"role": "user", "content": text}]}
            answer = await (await client.post(PATH, json=body)).json()
            return str(answer["choices"][0]["message"]["content"])

        async def ask_other(text: str) -> str:
            body = {**request, "messages": [{"role": "user", "content": text}]}
            answer = await (await session.post(f"{beside}{PATH}", json=body)).json()
            return str(answer["choices"][0]["message"]["content"])

        sides: dict[str, Callable[[], Awaitable[object]]] = {
            ONE: lambda: _one_by_one(ask, texts),
            MANY: lambda: _together(ask, texts),
            ROWS: lambda: asyncio.to_thread(_rows, deployed, texts, 1),
            BATCHES: lambda: asyncio.to_thread(_rows, deployed, texts, CLIENTS),
            PREDICTED: lambda: asyncio.to_thread(_rows, deployed, texts, AT_ONCE),
            EVALUATED: lambda: asyncio.to_thread(_evaluated, deployed, texts),
        }
        if beside is not None:
            sides[BESIDE] = lambda: _together(ask_other, texts)
            await ask_other(texts[0])
        await ask(texts[0])
        for turn in range(repeats):
            for name in list(sides) if turn % 2 == 0 else reversed(list(sides)):
                started = time.perf_counter()
                answers = await sides[name]()
                times.setdefault(name, []).append(time.perf_counter() - started)
                if isinstance(answers, list):
                    by_side[name] = answers
        return Measured(times, by_side, server.batches)


def figures(measured: Measured, rows: int) -> list[common.Figure]:
    """The ratios of one measurement."""
    times, answers = measured.times, measured.answers

    def differing(first: str, second: str) -> common.Gate:
        count = sum(a != b for a, b in zip(answers[first], answers[second], strict=True))
        return common.Gate("answers that differ", float(count), 0.0)

    per_second = {name: round(rows / min(seconds), 1) for name, seconds in times.items()}
    facts = {"requests": rows, "per second": per_second, "batches": measured.batches}
    shown = [
        common.Figure(
            "requests per second of the built-in server",
            ONE,
            common.speedup(times, ONE, MANY),
            GOAL,
            gates=[differing(ONE, MANY)],
            facts={**facts, "the same ratio without a server": round(common.speedup(times, ROWS, BATCHES), 2)},
        ),
        common.Figure(
            "requests per second of the built-in server", BATCHES, common.speedup(times, BATCHES, MANY), LEAST_SHARE
        ),
        common.Figure(
            "rows per second of `predict`", EVALUATED, common.speedup(times, EVALUATED, PREDICTED), LEAST_SHARE
        ),
    ]
    if BESIDE in times:
        ratio = common.speedup(times, BESIDE, MANY)
        shown.append(
            common.Figure("requests per second of the built-in server", BESIDE, ratio, gates=[differing(BESIDE, MANY)])
        )
    return shown


def main(arguments: list[str] | None = None) -> int:
    """Measure and print."""
    parser = common.parser(__doc__ or "")
    parser.add_argument("folder", type=Path, help="folder of an export")
    parser.add_argument("--beside", metavar="URL", help="address of another server of the same folder")
    options = parser.parse_args(arguments)
    common.limit_threads(options.threads)
    most, repeats = (8, 1) if options.smoke else (64, min(options.repeats, 3))
    lines = (options.folder / "eval" / "test.jsonl").read_text(encoding="utf-8").splitlines()
    texts = [json.loads(line)["text"] for line in lines][:most]
    measured = asyncio.run(measure(options.folder, texts, repeats, options.beside))
    return common.show(options, figures(measured, len(texts)))


if __name__ == "__main__":
    sys.exit(main())
