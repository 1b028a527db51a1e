"""Times of folders: what waited for a busy machine is no slow test."""

from types import SimpleNamespace
from typing import Any

import pytest

from tests import suite_guard
from tests.suite_guard import CPU, FolderTimes


class Terminal:
    def __init__(self) -> None:
        self.lines: list[str] = []

    def section(self, title: str) -> None:
        self.lines.append(title)

    def write_line(self, line: str, **_: Any) -> None:
        self.lines.append(line)


@pytest.mark.parametrize(
    ("busy", "seconds", "cpu", "warned"),
    [
        (0.0, 100.0, 10.0, True),
        (1000.0, 100.0, 10.0, False),
        (1000.0, 100.0, 60.0, True),
        (0.0, 40.0, 60.0, False),
        (1000.0, 40.0, 60.0, False),
    ],
)
def test_a_folder_over_its_budget_is_said(
    busy: float, seconds: float, cpu: float, warned: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seconds count on an idle machine; beside other work CPU seconds where they are fewer. Two cores take more CPU
    seconds than pass."""
    clock = iter((0.0, cpu + busy))
    monkeypatch.setattr(suite_guard, "busy_seconds", lambda: next(clock))
    times, terminal = FolderTimes({"tests/data": 50.0}), Terminal()
    for when, duration, properties in (("call", seconds, []), ("teardown", 0.0, [(CPU, cpu)])):
        report: Any = SimpleNamespace(
            nodeid="tests/data/test_x.py::test_y", duration=duration, when=when, user_properties=properties
        )
        times.pytest_runtest_logreport(report)
    times.pytest_terminal_summary(terminal)
    assert any("over its budget of 50" in line for line in terminal.lines) == warned
    assert any("other work took" in line for line in terminal.lines) == bool(busy)


def test_cpu_seconds_of_a_test_reach_its_report(request: pytest.FixtureRequest) -> None:
    item = request.node
    assert suite_guard.cpu_seconds() >= item.stash[suite_guard.BEGUN] > 0
    call: Any = SimpleNamespace(when="teardown")
    before = list(item.user_properties)
    suite_guard.pytest_runtest_makereport(item, call)
    ((name, seconds),) = item.user_properties[len(before) :]
    item.user_properties[:] = before
    assert name == CPU
    assert 0 <= seconds < 60
