"""The benchmarks of the collector and of the report run, at sizes that say nothing about speed."""

import json

import pytest

from bench import collector, report


def test_collector(capsys: pytest.CaptureFixture[str]) -> None:
    assert collector.main(["--smoke", "--json", "--repeats", "1"]) == 0
    figure = json.loads(capsys.readouterr().out)
    assert (figure["facts"]["results"], figure["facts"]["new"], figure["holds"]) == (200, 2, True)


def test_report(capsys: pytest.CaptureFixture[str]) -> None:
    assert report.main(["--smoke", "--json"]) == 0
    figure = json.loads(capsys.readouterr().out)
    assert figure["holds"]
    assert figure["facts"]["results"] == 2 * (7 * 3 + 6), "2 models x (7 attacks x 3 defenses + 6 floors)"
