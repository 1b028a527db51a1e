"""Job loop of a warm worker: one job after the other, by the code that a fresh worker runs.

The worker reads one line of JSON per job from standard input (`p2p_dist.worker_protocol`): the `arguments` of the job's
command line, the `environment` of this job alone, and its `log`. A job that ends with code 0 is answered with a line,
and the worker waits for the next. Any other end is the end of the process, with the job's own exit code or signal: the
controller sees what a fresh worker would have shown, and no failure reaches a second job.
"""

import ctypes
import json
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from p2p_dist.results import confined
from p2p_dist.worker_protocol import DONE

MOST_JOBS = 200
"""Jobs after which a worker exits by itself, so that leaks cannot add up without limit."""


def serve(run: Callable[[Sequence[str]], int], is_sound: Callable[[], bool]) -> int:
    """Run jobs until standard input ends, and return the exit code of the process.

    `run` does one job; `is_sound` returns False when no other may follow in this process.
    """
    requests, answers = os.fdopen(os.dup(0)), os.dup(1)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    own_environment = dict(os.environ)
    for number, line in enumerate(iter(requests.readline, ""), 1):
        job = json.loads(line)
        _prepare(job["log"], {**own_environment, **job["environment"]})
        code = run(job["arguments"])
        sys.stdout.flush()
        sys.stderr.flush()
        if code != 0:
            return code
        _reset_signals()
        if not is_sound() or number == MOST_JOBS:
            break
        os.write(answers, DONE)
    return 0


def _prepare(log: str, environment: Mapping[str, str]) -> None:
    """Put the process into the state of a fresh one: the job's log and environment, default signal handlers, no memory
    peak."""
    with confined.open_to_append(Path(log)) as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
    _reset_signals()
    for name in set(os.environ) - set(environment):
        del os.environ[name]
    os.environ.update(environment)
    _reset_memory_peaks()


def _reset_signals() -> None:
    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_DFL)


def _reset_memory_peaks() -> None:
    """Return freed memory to the system and reset the peaks, where the system can (proc(5), clear_refs)."""
    if sys.platform != "linux":
        return
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):
        libc.malloc_trim(0)
    peaks = Path("/proc/self/clear_refs")
    if os.access(peaks, os.W_OK):
        peaks.write_text("5")
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.reset_peak_memory_stats()
