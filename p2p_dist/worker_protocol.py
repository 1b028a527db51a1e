"""The protocol between a controller and a worker that stays for several jobs: one line of JSON per job, and the
answer."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

DONE = b"done\n"
"""Answer of a worker whose job ended with code 0: it waits for the next."""


def request(arguments: Sequence[str], environment: Mapping[str, str], log: Path) -> bytes:
    """Encode one job: the arguments of its command line, the environment that this job alone has, and its log."""
    job = {"arguments": list(arguments), "environment": dict(environment), "log": str(log)}
    return (json.dumps(job) + "\n").encode()
