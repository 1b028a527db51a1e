"""The process that has the fake GPU, asked for one piece of work after the other."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.cuda_fake import shim

if TYPE_CHECKING:
    from tests.cuda_fake.cases import Case

Measure = Callable[["Case"], dict[str, Any]]


@contextmanager
def fake_gpu_process() -> Iterator[Measure]:
    """Start the process; what it says of a case is kept. Raises `shim.Unavailable` where the device cannot be
    compiled."""
    shim.compiled()
    command = [sys.executable, "-W", "ignore", "-m", "tests.cuda_fake.probe"]
    process = subprocess.Popen(
        command, cwd=Path(__file__).parents[2], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    known: dict[Case, dict[str, Any]] = {}

    def measure(case: "Case") -> dict[str, Any]:
        if case not in known:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(json.dumps(asdict(case)) + "\n")
            process.stdin.flush()
            known[case] = json.loads(process.stdout.readline() or '{"error": "the process of the fake GPU ended"}')
        assert "error" not in known[case], known[case]["error"]
        return known[case]

    try:
        yield measure
    finally:
        process.communicate()
