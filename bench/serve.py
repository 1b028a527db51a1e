"""Requests per second of the built-in server with 16 clients, against the same requests one by one.

`python -m bench.serve DIR` in the project's root, DIR being a folder of `p2p-dist export`. Both sides go over HTTP on
this machine, turn by turn; the clock is the wall's, because the server answers in another thread.
"""

import asyncio
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

from bench import common

GOAL = 5.0
CLIENTS = 16


async def _measure(folder: Path, most: int, repeats: int) -> tuple[common.Times, int, int, list[int]]:
    """Seconds of every turn of both sides, the number of requests, the number of answers that differ between the sides,
    and sizes of batches."""
    from aiohttp.test_utils import TestClient, TestServer

    from p2p_dist.deployment.loaded import load
    from p2p_dist.deployment.server import Server

    lines = (folder / "eval" / "test.jsonl").read_text(encoding="utf-8").splitlines()
    texts = [json.loads(line)["text"] for line in lines][:most]
    server = Server(load(folder), CLIENTS)
    answers: dict[str, list[str]] = {}
    times: common.Times = {"one by one": [], f"{CLIENTS} clients": []}
    async with TestClient(TestServer(server.app())) as client:

        async def ask(text: str) -> str:
            body = {"model": "p2p", "messages": [{"role": "user", "content": text}]}
            answer = await (await client.post("/v1/chat/completions", json=body)).json()
            return str(answer["choices"][0]["message"]["content"])

        async def one_by_one() -> list[str]:
            return [await ask(text) for text in texts]

        async def together() -> list[str]:
            free = asyncio.Semaphore(CLIENTS)

            async def of_client(text: str) -> str:
                async with free:
                    return await ask(text)

            return list(await asyncio.gather(*(of_client(text) for text in texts)))

        await ask(texts[0])
        sides: list[tuple[str, Callable[[], object]]] = list(zip(times, (one_by_one, together), strict=True))
        for turn in range(repeats):
            for name, side in sides if turn % 2 == 0 else reversed(sides):
                started = time.perf_counter()
                answers[name] = await side()  # type: ignore[misc]
                times[name].append(time.perf_counter() - started)
    first, second = answers.values()
    return times, len(texts), sum(a != b for a, b in zip(first, second, strict=True)), server.batches


def main(arguments: list[str] | None = None) -> int:
    """Measure and print."""
    parser = common.parser(__doc__ or "")
    parser.add_argument("folder", type=Path, help="folder of an export")
    options = parser.parse_args(arguments)
    most, repeats = (8, 1) if options.smoke else (64, min(options.repeats, 3))
    times, rows, differing, batches = asyncio.run(_measure(options.folder, most, repeats))
    baseline, candidate = times
    figure = common.Figure(
        "requests per second of the built-in server",
        baseline,
        common.speedup(times, baseline, candidate),
        GOAL,
        gates=[common.Gate("answers that differ", float(differing), 0.0)],
        facts={
            "requests": rows,
            "requests per second": round(rows / min(times[candidate]), 1),
            "one by one": round(rows / min(times[baseline]), 1),
            "largest batch": max(batches),
        },
    )
    return common.show(options, [figure])


if __name__ == "__main__":
    sys.exit(main())
