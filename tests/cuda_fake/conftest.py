"""Measurements on the fake GPU, made by one process for all tests of this folder."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.cuda_fake import shim

if TYPE_CHECKING:
    from tests.cuda_fake.cases import Case

Measure = Callable[["Case"], dict[str, Any]]


@pytest.fixture(scope="session")
def measure() -> Iterator[Measure]:
    """What a case asks of the fake GPU. Skips where the device cannot be compiled."""
    try:
        shim.compiled()
    except shim.Unavailable as reason:
        pytest.skip(f"no fake CUDA device: {reason}")
    command = [sys.executable, "-W", "ignore", "-m", "tests.cuda_fake.probe"]
    process = subprocess.Popen(
        command, cwd=Path(__file__).parents[2], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    known: dict[Case, dict[str, Any]] = {}

    def ask(case: "Case") -> dict[str, Any]:
        if case not in known:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(json.dumps(asdict(case)) + "\n")
            process.stdin.flush()
            known[case] = json.loads(process.stdout.readline() or '{"error": "the process of the fake GPU ended"}')
        assert "error" not in known[case], known[case]["error"]
        return known[case]

    yield ask
    process.communicate()
