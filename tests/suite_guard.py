"""Pytest plug-in that looks after the suite itself: `--fast`, the CPU in the header, and the time of every folder.

With `--fast` only tests run that start no process and need no torch; one that does either fails, so that the loop
stays fast by itself. Times are compared with the budgets in `pyproject.toml`, and one that is exceeded is said and
never fails: machines differ.
"""

import gc
import os
import sys
import time
import tomllib
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
PROCESS_EVENTS = frozenset({"subprocess.Popen", "os.fork", "os.posix_spawn", "os.exec"})
HEAVY_MODULES = frozenset({"torch", "transformers", "ray", "deepspeed"})
BEGUN = pytest.StashKey[float]()
CPU = "cpu_seconds"
OTHERS_AT_WORK = 0.5
"""Cores that other processes may take before a folder's time says more about them than about the tests."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add `--fast`."""
    parser.addoption("--fast", action="store_true", help="only tests that start no process and need no torch")


def pytest_configure(config: pytest.Config) -> None:
    """Measure folders, and watch for processes in a fast run."""
    if not hasattr(config, "workerinput"):  # a process of pytest-xdist reports to the one that prints
        budgets = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["p2p-dist-tests"]["budgets"]
        config.pluginmanager.register(FolderTimes(budgets), "folder_times")
    if config.getoption("--fast"):
        config.pluginmanager.register(FastLoop(), "fast_loop")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Refuse a slow test that gives no reason."""
    for item in items:
        marker = item.get_closest_marker("slow")
        if marker is not None and not marker.args:
            raise pytest.UsageError(f"{item.nodeid} is slow without a reason. Try: pytest.mark.slow('REASON')")


def pytest_collection_finish() -> None:
    """Let garbage collections pass over what was imported: statsmodels collects at every call, in a second each."""
    gc.collect()
    gc.freeze()


def pytest_report_header(config: pytest.Config) -> str:
    """The CPU that the times of this run belong to."""
    return f"cpu: {cpu_name()}"


def cpu_name() -> str:
    """Model, logical cores and the instructions that decide how fast a training is (Linux)."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    fields = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    cores = sum(line.startswith("processor") for line in lines)
    flags = fields.get("flags", "").split()
    present = [f"{'' if flag in flags else 'no '}{flag}" for flag in ("avx2", "avx512f", "avx512_bf16", "amx_bf16")]
    return f"{fields.get('model name', 'unknown')}, {cores} cores, {', '.join(present)}"


class FastLoop:
    """Keeps the fast loop fast: fails a test that starts a process or imports what takes seconds to import."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.importer = ""
        sys.addaudithook(self._note)

    def _note(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event in PROCESS_EVENTS:
            self.events.append(f"{event} {arguments[0]}")

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        """Leave out tests that say that they start processes or need torch."""
        left_out = [item for item in items if any(item.get_closest_marker(name) for name in ("process", "torch"))]
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_setup(self) -> Iterator[None]:
        """Make the fixtures of a test, and look at what they started and imported."""
        yield from self._watch()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self) -> Iterator[None]:
        """Run the test, and look at what it started and imported."""
        yield from self._watch()

    def _watch(self) -> Iterator[None]:
        self.events.clear()
        before = HEAVY_MODULES & set(sys.modules)
        yield
        if self.events:
            pytest.fail(f"starts a process: {self.events[0]}. Try: mark it with pytest.mark.process", pytrace=False)
        if imported := sorted(HEAVY_MODULES & set(sys.modules) - before):
            pytest.fail(f"imports {', '.join(imported)}. Try: mark it with pytest.mark.torch", pytrace=False)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Remember the first file whose collection imported what takes seconds."""
        if not self.importer and HEAVY_MODULES & set(sys.modules):
            self.importer = report.nodeid

    def pytest_collection_finish(self) -> None:
        """Stop where a file imports what the fast loop does without."""
        if imported := sorted(HEAVY_MODULES & set(sys.modules)):
            raise pytest.UsageError(
                f"a test file imports {', '.join(imported)}. Try: import it in the tests that need it"
            )


def cpu_seconds() -> float:
    """CPU seconds of this process and of its children that have ended."""
    used = os.times()
    return used.user + used.system + used.children_user + used.children_system


def busy_seconds() -> float:
    """CPU seconds that all processes of this machine have used since it started (Linux)."""
    stat = Path("/proc/stat")
    if not stat.is_file():
        return 0.0
    user, nice, system = map(int, stat.read_text().split()[1:4])
    return (user + nice + system) / os.sysconf("SC_CLK_TCK")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Note the CPU time at which a test begins."""
    item.stash[BEGUN] = cpu_seconds()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> None:
    """Hand on the CPU time of a test with the report of its last phase, from processes of pytest-xdist too."""
    if call.when == "teardown" and BEGUN in item.stash:
        item.user_properties.append((CPU, cpu_seconds() - item.stash[BEGUN]))


class FolderTimes:
    """Seconds of every test folder, beside its budget. Runs beside each other count each for itself. While other work
    takes the cores, a folder that waited for one is within its budget if its CPU seconds are."""

    def __init__(self, budgets: dict[str, float]) -> None:
        self.budgets = budgets
        self.seconds: dict[str, float] = defaultdict(float)
        self.cpu: dict[str, float] = defaultdict(float)
        self.begun, self.busy = time.monotonic(), busy_seconds()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Add a phase of a test to its folder."""
        folder = folder_of(report.nodeid)
        self.seconds[folder] += report.duration
        if report.when == "teardown":
            used = dict(report.user_properties).get(CPU)
            self.cpu[folder] += used if isinstance(used, float) else 0.0

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """Print what every folder took, longest first, and warn of those over budget."""
        terminalreporter.section("seconds by folder (CPU seconds; budget)")
        others = self._cores_of_others()
        for folder, seconds in sorted(self.seconds.items(), key=lambda item: -item[1]):
            budget = self.budgets.get(folder)
            counted = min(seconds, self.cpu[folder]) if others > OTHERS_AT_WORK else seconds
            line = f"{seconds:8.1f}  {folder} ({self.cpu[folder]:.1f}; "
            if budget is not None and counted > budget:
                terminalreporter.write_line(f"{line}warning: over its budget of {budget:g})", yellow=True)
            elif seconds >= 1:
                terminalreporter.write_line(f"{line}{'none' if budget is None else f'{budget:g}'})")
        if others > OTHERS_AT_WORK:
            terminalreporter.write_line(f"other work took {others:.1f} cores: CPU seconds count where they are fewer")

    def _cores_of_others(self) -> float:
        """Mean number of cores that processes other than the tests' were busy on."""
        passed = time.monotonic() - self.begun
        return max(0.0, busy_seconds() - self.busy - sum(self.cpu.values())) / max(passed, 1.0)


def folder_of(nodeid: str) -> str:
    """The folder that a test counts for: the one below `tests/`, or its file where it lies in `tests/` itself."""
    parts = nodeid.partition("::")[0].split("/")
    return "/".join(parts[:2])
