"""Workers that stay: a job sees what it would see in a process of its own, and what goes wrong ends with its worker."""

import os
import signal
import sys
import time
from pathlib import Path

import pytest

from p2p_dist.results.lease import FENCE
from p2p_dist.scheduling.backend import Backend, ProcessGroup, Service

WORKER = """
import os, sys, time
from p2p_dist.worker.job_loop import serve

state = []

def run(arguments):
    state.append(1)
    left = [os.environ.get(name) for name in ("P2P_DIST_LEASE", "LEFT")]
    print(os.getpid(), len(state), os.environ["GREETING"], *left, flush=True)
    print("to stderr", file=sys.stderr)
    os.environ["LEFT"] = "behind"
    return eval(arguments[0])  # the test's own code

sys.exit(serve(run, lambda: "unsound" not in sys.argv))
"""


class Jobs:
    """Process groups with a service, each with a log and a lease of its own."""

    def __init__(self, backend: Backend, folder: Path):
        self.backend, self.folder, self.count = backend, folder, 0

    def start(self, code: str, *options: str, base: str = "", greeting: str = "hello") -> tuple[str, Path]:
        self.count += 1
        log = self.folder / f"log{self.count}"
        told = {FENCE: f"lease{self.count}"}
        service = Service((sys.executable, "-c", WORKER, str(self.folder), *options), (code,), told, base)
        group = ProcessGroup(
            (sys.executable, "-c", "raise SystemExit('not asked for')"),
            log,
            1,
            environment={"GREETING": greeting, **told},
            service=service,
        )
        name = self.backend.start(group)
        while not log.exists():  # Ray may take a while to place it
            self.backend.poll(name)
            time.sleep(0.02)
        return name, log

    def wait(self, name: str, seconds: float = 30) -> int:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if (code := self.backend.poll(name)) is not None:
                return code
            time.sleep(0.02)
        raise TimeoutError(name)

    def done(self, code: str, *options: str, base: str = "", greeting: str = "hello") -> tuple[int, list[str]]:
        """(exit code, words of the first line of its log)."""
        name, log = self.start(code, *options, base=base, greeting=greeting)
        return self.wait(name), log.read_text().split("\n")[0].split()


@pytest.fixture
def jobs(backend: Backend, tmp_path: Path) -> Jobs:
    return Jobs(backend, tmp_path)


def pids(log: Path) -> int:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and not (log.exists() and log.read_text().endswith("\n")):
        time.sleep(0.02)
    return int(log.read_text().split()[0])


def test_warm_worker_gives_each_job_its_log_and_environment(jobs: Jobs, tmp_path: Path) -> None:
    """Jobs follow each other in one process with logs and environments of their own."""
    said = [jobs.done("0") for _ in range(3)]
    assert [code for code, _ in said] == [0, 0, 0]
    assert len({words[0] for _, words in said}) == 1
    assert [words[1:] for _, words in said] == [[str(at), "hello", f"lease{at}", "None"] for at in (1, 2, 3)]
    assert [(tmp_path / f"log{at}").read_text().split("\n")[1:] for at in (1, 2, 3)] == [["to stderr", ""]] * 3
    assert (tmp_path / "hosts").read_text().count(" 0-0\n") == 3


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("75", 75),
        ("3", 3),
        ("1 / 0", 1),
        ("sys.exit(7)", 7),
        ("os.kill(os.getpid(), 9)", -9),
        ("os.kill(os.getpid(), 15)", -15),
        ("os._exit(0)", 0),
    ],
)
def test_any_end_but_success_is_the_end_of_the_worker(jobs: Jobs, tmp_path: Path, code: str, expected: int) -> None:
    first = jobs.done("0")
    ended = jobs.done(code)
    after = jobs.done("0")
    assert [first[0], ended[0], after[0]] == [0, expected, 0]
    assert first[1][0] == ended[1][0]
    assert after[1][:2] != first[1][:2]
    assert after[1][1] == "1", "a fresh process"
    assert ("ZeroDivisionError" in (tmp_path / "log2").read_text()) == (code == "1 / 0")


def test_a_job_can_be_asked_to_stop_and_no_handler_outlives_it(jobs: Jobs) -> None:
    wait = "[time.sleep(0.01) for _ in iter(lambda: 'stop' in state, True)]"
    polite = f"[__import__('signal').signal(15, lambda *_: state.append('stop')), print('up'), {wait}, 75][-1]"
    name, log = jobs.start(polite)
    pid = pids(log)
    while "up" not in log.read_text():
        time.sleep(0.02)
    jobs.backend.send_signal(name, signal.SIGTERM)
    assert jobs.wait(name) == 75
    _, words = jobs.done("__import__('signal').signal(10, lambda *_: None) and 0")
    name, log = jobs.start("time.sleep(60)")
    assert pids(log) == int(words[0]) != pid
    jobs.backend.send_signal(name, signal.SIGUSR1)
    assert jobs.wait(name) == -signal.SIGUSR1, "as in a process that has set no handler yet"


def test_warm_worker_killed_while_waiting_costs_no_job(jobs: Jobs) -> None:
    """A worker that is killed while it waits is replaced and costs no job."""
    _, words = jobs.done("0")
    os.kill(int(words[0]), signal.SIGKILL)
    while Path(f"/proc/{words[0]}").exists() and "Z" not in Path(f"/proc/{words[0]}/stat").read_text():
        time.sleep(0.01)
    code, after = jobs.done("0")
    assert code == 0
    assert after[0] != words[0]


def test_a_worker_that_is_not_sound_does_no_other_job(jobs: Jobs) -> None:
    said = [jobs.done("0", "unsound") for _ in range(2)]
    assert [(code, words[1]) for code, words in said] == [(0, "1"), (0, "1")]


def test_a_hung_job_is_stopped_and_its_worker_with_it(jobs: Jobs) -> None:
    name, log = jobs.start("time.sleep(60)")
    pid = pids(log)
    jobs.backend.stop(name)
    assert jobs.wait(name) == -signal.SIGTERM
    assert not Path(f"/proc/{pid}").exists()
    assert jobs.done("0")[0] == 0


def test_worker_pool_prefers_the_worker_with_the_base(jobs: Jobs) -> None:
    """A job goes where its base is and not to a worker of other settings."""
    both = {base: jobs.start("time.sleep(0.3) or 0", base=base) for base in "ab"}
    own = {base: pids(log) for base, (_, log) in both.items()}
    assert [jobs.wait(name) for name, _ in both.values()] == [0, 0]
    assert own["a"] != own["b"]
    assert [int(jobs.done("0", base=base)[1][0]) for base in "bba"] == [own["b"], own["b"], own["a"]]
    assert int(jobs.done("0", base="c")[1][0]) in own.values(), "any worker is better than a fresh one"
    mornings = [jobs.done("0", greeting="morning")[1] for _ in range(2)]
    assert [words[1:3] for words in mornings] == [["1", "morning"], ["2", "morning"]]
    assert [Path(f"/proc/{pid}").exists() for pid in own.values()] == [False, False], "they gave up their places"


def test_a_group_of_its_own_takes_the_place_of_those_who_wait(jobs: Jobs, tmp_path: Path) -> None:
    _, words = jobs.done("0")
    pair = ProcessGroup((sys.executable, "-c", "print('alone')"), tmp_path / "log", 1, ranks=2)
    assert jobs.wait(jobs.backend.start(pair)) == 0
    assert not Path(f"/proc/{words[0]}").exists()
