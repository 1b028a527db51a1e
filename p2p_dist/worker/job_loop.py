"""A worker that stays: job after job, by the code that a fresh worker runs.

It reads one line of JSON per job from its standard input: the `arguments` of the job's command line, the `environment`
that this job alone has, and its `log`. A job that ended with code 0 is answered with a line, and the worker waits for
the next; any other end is the end of the process, with the job's own exit code or signal. Whoever started it sees what
a fresh worker would have shown, and nothing that went wrong is carried into another job.
"""

import ctypes
import json
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from p2p_dist.worker_protocol import DONE

MOST_JOBS = 200
"""After so many a worker goes by itself, so that nothing can pile up for ever."""


def serve(run: Callable[[Sequence[str]], int], sound: Callable[[], bool]) -> int:
    """Carry out jobs until nobody asks any more. `run` does one, `sound` says whether another may follow in this
    process. Returns the exit code of the process."""
    asked, answers = os.fdopen(os.dup(0)), os.dup(1)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    first = dict(os.environ)
    for at, line in enumerate(iter(asked.readline, ""), 1):
        job = json.loads(line)
        _begin(job["log"], {**first, **job["environment"]})
        code = run(job["arguments"])
        sys.stdout.flush()
        sys.stderr.flush()
        if code != 0:
            return code
        _ordinary_signals()
        if not sound() or at == MOST_JOBS:
            break
        os.write(answers, DONE)
    return 0


def _begin(log: str, environment: Mapping[str, str]) -> None:
    """As if the process had just been started for this job: its log, its environment, no signal handlers, no peak of
    memory."""
    handle = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    os.close(handle)
    _ordinary_signals()
    for name in set(os.environ) - set(environment):
        del os.environ[name]
    os.environ.update(environment)
    _forget_peaks()


def _ordinary_signals() -> None:
    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_DFL)


def _forget_peaks() -> None:
    """Give back what was freed, and let peaks of memory begin anew where the system can (proc(5), clear_refs)."""
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
