"""JSON on standard output is valid, for answers and for errors."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest

from p2p_dist.cli.output import print_json
from p2p_dist.errors import Exit
from tests.cli.test_main import invoke


def strict(text: str) -> object:
    """The value of a JSON text. Fails on NaN and Infinity, which Python reads and JSON does not have."""

    def refuse(name: str) -> float:
        raise AssertionError(f"{name} is no JSON")

    return json.loads(text, parse_constant=refuse)


def test_print_json_not_finite_becomes_null(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"a": math.nan, "b": [math.inf, (1.5, -math.inf)], "c": {"d": "NaN"}})
    assert strict(capsys.readouterr().out) == {"a": None, "b": [None, [1.5, None]], "c": {"d": "NaN"}}


def test_error_with_json_is_an_object(study_file: Callable[[str], Path]) -> None:
    """All problems of a file, the first one on top."""
    path = study_file("name: x\ntask: sst3\nmodel: tny\n")
    code, answer, text = invoke("plan", str(path), "--json")
    error = strict(answer)
    assert isinstance(error, dict)
    assert (code, error["exit_code"], text) == (Exit.USAGE, 2, "")
    assert (error["code"], error["message"]) == ("E117", "unknown task 'sst3' (did you mean 'sst2'?)")
    assert error["where"].endswith("study.yaml:2 (task.name)")
    assert error["fix"].startswith("name one of ")
    assert [problem["message"] for problem in error["problems"]] == [
        "unknown task 'sst3' (did you mean 'sst2'?)",
        "unknown model 'tny' (did you mean 'tiny'?)",
    ]


@pytest.mark.parametrize("words", [["plan", "--json", "--nope"], ["run", "--json"], ["list", "--json", "a", "b", "c"]])
def test_wrong_command_line_with_json_is_an_object(words: list[str]) -> None:
    code, answer, text = invoke(*words)
    error = strict(answer)
    assert isinstance(error, dict)
    assert (code, error["code"], error["exit_code"], text) == (Exit.USAGE, "E121", 2, "")


def test_wrong_command_line_without_json_is_text() -> None:
    code, answer, text = invoke("plan", "--nope")
    assert (code, answer) == (Exit.USAGE, "")
    assert "No such option: --nope" in text
