"""Shared parts of the benchmarks: turn-by-turn timing, equality gates, and the output of figures.

Start one with `python -m bench.NAME` in the project's root. A figure is a ratio. Its two sides are timed turn by turn
in one run on one machine, warm-up left out, and the fastest of at least five turns counts; the gates beside it say that
both sides computed the same thing. A benchmark ends with exit code 1 when a gate does not hold; a goal that is missed
only says so.

This file imports no torch, so that benchmarks of planning and of results need none.
"""

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from threading import Semaphore, Thread
from typing import Any
from weakref import WeakSet

REPEATS = 5
Clock = Callable[[], float]
Times = dict[str, list[float]]


@dataclass(frozen=True)
class Gate:
    """Something that must hold for a figure to mean anything: `value` at most `limit`. NaN does not hold."""

    what: str
    value: float
    limit: float

    @property
    def holds(self) -> bool:
        return self.value <= self.limit


@dataclass(frozen=True)
class Figure:
    """One measured ratio. With `at_most` the goal is an upper bound, else a lower one; without a goal it is only
    reported."""

    name: str
    baseline: str
    ratio: float
    goal: float | None = None
    at_most: bool = False
    gates: Sequence[Gate] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def met(self) -> bool | None:
        if self.goal is None:
            return None
        return self.ratio <= self.goal if self.at_most else self.ratio >= self.goal


@dataclass(frozen=True)
class LeftOut:
    """A figure that could not be measured here, and why."""

    name: str
    why: str


SHOWN: list[Figure] = []
"""All figures that `show` has printed in this process."""


def parser(description: str) -> argparse.ArgumentParser:
    """The options that all benchmarks have."""
    made = argparse.ArgumentParser(description=description)
    made.add_argument("--json", action="store_true", help="one line of JSON per figure")
    made.add_argument(
        "--smoke", action="store_true", help="tiny sizes in seconds: does it still run? its ratios mean nothing"
    )
    made.add_argument("--repeats", type=int, default=REPEATS, help=f"timed turns of each side (default {REPEATS})")
    made.add_argument(
        "--steps",
        type=int,
        default=1,
        help="steps in a turn (default 1; a GPU wants more, because a turn ends with waiting for it)",
    )
    made.add_argument(
        "--threads",
        type=int,
        default=1,
        help="threads of the linear algebra (default 1: CPU time of a busy machine can be compared)",
    )
    return made


def limit_threads(count: int) -> None:
    """This many threads in the linear algebra of this process and of those it starts."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = str(count)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(count)


def interleave(
    cases: Mapping[str, Callable[[], object]], repeats: int = REPEATS, warmup: int = 2, clock: Clock | None = None
) -> Times:
    """Seconds of every turn of every case. All cases take one turn each, `warmup` rounds untimed and then `repeats`
    rounds.

    Every other round goes the other way round, so that a machine that grows slower or faster favours no case. The
    default clock is this process's CPU time, which other people's work does not enter; for work in other processes or
    on a device pass another.
    """
    clock = clock or time.process_time
    times: Times = {name: [] for name in cases}
    for turn in range(-warmup, repeats):
        for name in list(cases) if turn % 2 == 0 else reversed(list(cases)):
            started = clock()
            cases[name]()
            if turn >= 0:
                times[name].append(clock() - started)
    return times


class Stepwise:
    """A training that is held after every step, so that trainings whose loops are not ours can take turns with others.

    `work(tick)` trains in a thread of its own and calls `tick` after every step; `step()` lets it go to its next tick
    and waits. Only one side runs at any time, so the CPU time of a turn is that of the step. Every step runs inside a
    context of its own, `within`, if there is one: what counts or profiles works in the thread that it is entered in.
    """

    within: Callable[[], AbstractContextManager[object]] = nullcontext

    def __init__(self, work: Callable[[Callable[[], None]], object]):
        self._go, self._stopped = Semaphore(0), Semaphore(0)
        self._over = self._closing = False
        self._error: BaseException | None = None
        self._thread = Thread(target=self._run, args=(work,), daemon=True)
        self._thread.start()
        _TRAININGS.add(self)

    def steps(self, count: int) -> Callable[[], None]:
        """A turn of so many steps, for `interleave`."""

        def turn() -> None:
            for _ in range(count):
                self.step()

        return turn

    def step(self) -> None:
        """One more step. Raises what the training raises, or RuntimeError when it had come to its end."""
        if not self._over:
            self._go.release()
            self._stopped.acquire()
        if self._error:
            raise self._error
        if self._over:
            raise RuntimeError("the training was over before the benchmark: give it more steps")

    def close(self) -> None:
        """End the training where it stands and free what it holds."""
        if not self._over:
            self._closing = True
            self._go.release()
        self._thread.join()

    def _run(self, work: Callable[[Callable[[], None]], object]) -> None:
        self._go.acquire()
        self._step = ExitStack()
        try:
            if not self._closing:
                self._step.enter_context(self.within())
                work(self._tick)
        except _Enough:
            pass
        except BaseException as error:  # noqa: BLE001  # not handled: raised again in the thread that asked for the step
            self._error = error
        finally:
            self._step.close()
        self._over = True
        self._stopped.release()

    def _tick(self) -> None:
        self._step.close()
        self._stopped.release()
        self._go.acquire()
        if self._closing:
            raise _Enough
        self._step.enter_context(self.within())


_TRAININGS: WeakSet[Stepwise] = WeakSet()


def close_trainings() -> None:
    """Close what a benchmark has left open that failed."""
    for training in list(_TRAININGS):
        training.close()
        _TRAININGS.discard(training)


class _Enough(BaseException):
    """Unwinds a training that is closed."""


def speedup(times: Times, baseline: str, candidate: str) -> float:
    """Speed-up of the candidate, from the fastest turn of each side."""
    return min(times[baseline]) / min(times[candidate])


def spread(times: Times, baseline: str, candidate: str) -> dict[str, float]:
    """The same ratio turn by turn: how far one run of the benchmark scatters."""
    ratios = [before / after for before, after in zip(times[baseline], times[candidate], strict=True)]
    return {"low": round(min(ratios), 3), "median": round(median(ratios), 3), "high": round(max(ratios), 3)}


def milliseconds(times: Times) -> dict[str, float]:
    """The fastest turn of every case, in milliseconds."""
    return {name: round(min(values) * 1e3, 3) for name, values in times.items()}


def pss_mib(pid: int | str = "self") -> float:
    """Memory of a process in MiB, pages that it shares divided among those that share them (Linux; PSS)."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("Pss:")).split()[1]) / 1024


def machine() -> dict[str, Any]:
    """Machine of a figure. `load` is the number of running programs, this one included, over the last minute."""
    cpu = platform.processor()
    if Path("/proc/cpuinfo").exists():
        cpu = next(
            (
                line.partition(":")[2].strip()
                for line in Path("/proc/cpuinfo").read_text().splitlines()
                if line.startswith("model name")
            ),
            cpu,
        )
    torch = sys.modules.get("torch")
    gpu = {"gpu": torch.cuda.get_device_name()} if torch and torch.cuda.is_available() else {}
    return {
        **gpu,
        "cpu": cpu,
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        **({"torch": torch.__version__} if torch else {}),
        "load": round(os.getloadavg()[0], 2),
    }


def show(options: argparse.Namespace, rows: Sequence[Figure | LeftOut], **where: Any) -> int:
    """Print what was measured and on what machine; `where` adds to the latter. Returns the exit code: 1 when a gate
    does not hold."""
    SHOWN.extend(row for row in rows if isinstance(row, Figure))
    turns = {"steps_per_turn": options.steps} if vars(options).get("steps", 1) > 1 else {}
    place = {**machine(), **where, **turns, **({"smoke": True} if options.smoke else {})}
    if options.json:
        for row in rows:
            verdict = (
                {"met": row.met, "holds": all(gate.holds for gate in row.gates)} if isinstance(row, Figure) else {}
            )
            print(json.dumps({**asdict(row), **verdict, "machine": place}))
    else:
        print(", ".join(f"{key} {value}" for key, value in place.items()))
        printed: dict[str, Any] = {}
        for row in rows:
            print("\n".join(_lines(row, printed, judged=not options.smoke)))
    return int(any(not gate.holds for row in rows if isinstance(row, Figure) for gate in row.gates))


def _lines(row: Figure | LeftOut, printed: dict[str, Any], judged: bool) -> list[str]:
    """A row as text, without the facts that the row above has said already."""
    if isinstance(row, LeftOut):
        return [f"{row.name}: left out, {row.why}"]
    verdict = f": {'met' if row.met else 'MISSED'}" if judged else ""
    bound = "" if row.goal is None else f"  goal {'<=' if row.at_most else '>='} {row.goal:g}x{verdict}"
    head = f"{row.name}: {row.ratio:.3f}x  (against {row.baseline}){bound}"
    gates = [
        f"  gate: {gate.what} {gate.value:.2e} <= {gate.limit:g}: {'holds' if gate.holds else 'DOES NOT HOLD'}"
        for gate in row.gates
    ]
    facts = [f"  {key}: {value}" for key, value in row.facts.items() if printed.get(key) != value]
    printed.update(row.facts)
    return [head, *gates, *facts]
