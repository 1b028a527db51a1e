"""The collector's benchmark runs, at a size that says nothing about speed."""

import json

import pytest

from bench import collector


def test_collector(capsys: pytest.CaptureFixture[str]) -> None:
    assert collector.main(["--smoke", "--json", "--repeats", "1"]) == 0
    figure = json.loads(capsys.readouterr().out)
    assert (figure["facts"]["results"], figure["facts"]["new"], figure["holds"]) == (200, 2, True)
