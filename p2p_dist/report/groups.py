"""Runs that differ only in their seed, taken together: what tables and pictures show."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from p2p_dist.results import crossed
from p2p_dist.results.collect import RunState
from p2p_dist.results.paired_rates import ASR_READINGS, excess_of
from p2p_dist.results.statistics import Difference, Interval, Spread, over_seeds, wilson

Hits = Mapping[str, bool]
"""Outcomes of one rate by row id."""


@dataclass(frozen=True)
class Group:
    """All seeds of one cell of the grid. `cell` has every axis but the seed."""

    cell: Mapping[str, str]
    runs: Sequence[RunState]
    hits_of: Callable[[RunState, str], Hits] = field(default=lambda run, name: {}, compare=False)
    """Outcomes of a run's rate row by row; empty where they are not known."""

    @cached_property
    def _rates(self) -> dict[str, list[tuple[Interval, bool]]]:
        rates: dict[str, list[tuple[Interval, bool]]] = {}
        for run in self.runs:
            for name, rate in run.rates.items():
                rates.setdefault(name, []).append((wilson(rate["k"], rate["n"]), run.collapsed_for(name)))
            if reading := worst_reading(run):
                worst = run.rates[reading]
                rates.setdefault("asr_worst", []).append((wilson(worst["k"], worst["n"]), run.collapsed_for("asr_ext")))
            if run.floor:
                rates.setdefault("floor", []).append((wilson(run.floor["k"], run.floor["n"]), False))
        return rates

    def rates(self, name: str) -> list[tuple[Interval, bool]]:
        """A rate of every seed that has it, and whether it is of a collapsed model; `floor` is the clean-model
        baseline, `asr_worst` the larger of the two readings of attack success."""
        return self._rates.get(name, [])

    def rate(self, name: str) -> "Estimate | None":
        """The rate over the seeds that have it."""
        if not (rates := self.rates(name)):
            return None
        hits = self.hits(name) if len(rates) > 1 else []
        complete = len(hits) == len(rates) and all(hits)
        return estimate(rates, crossed.rate_interval(hits) if complete else None)

    def hits(self, name: str) -> list[Hits]:
        """Outcomes of a rate row by row, of every seed that has it."""
        if name == "floor":
            return [self.hits_of(run, name) for run in self.runs if run.floor]
        if name == "asr_worst":
            return [self.hits_of(run, reading) for run in self.runs if (reading := worst_reading(run))]
        return [self.hits_of(run, name) for run in self.runs if name in run.rates]

    def excess(self, reading: str = "asr_ext") -> "Difference | None":
        """Attack success minus that of the same rows without the trigger, with its paired interval: of one seed
        Newcombe's, of several over seeds and rows. None where some seed lacks it or its rows."""
        by_seed = [excess_of(counts(run), reading) for run in self.runs if reading in run.rates]
        values = [excess for excess in by_seed if excess is not None]
        if not values or len(values) < len(by_seed):
            return None
        if len(values) == 1:
            return values[0]
        untriggered = self.hits(f"asr_untriggered{ASR_READINGS[reading]}")
        triggered = self.hits(reading)
        if not all(untriggered) or not all(triggered):
            return None
        return crossed.difference_interval(untriggered, triggered)

    @property
    def attack(self) -> str:
        return self.cell["attack"]

    @property
    def defense(self) -> str:
        return self.cell["defense"]

    @property
    def needs(self) -> Mapping[str, Any]:
        """Assumptions of the defense (`p2p_dist.data.defense.Assumptions`); empty where the study does not say."""
        return self.runs[0].needs

    @property
    def collapsed(self) -> int:
        """Seeds whose model gives (almost) every clean row one answer: their attack rates say nothing about the
        defense."""
        return sum(run.collapsed for run in self.runs)

    @property
    def hidden(self) -> list[Mapping[str, int]]:
        """See `hidden`, of every seed that has it."""
        return [rate for run in self.runs if (rate := hidden(run))]

    @property
    def constrained(self) -> bool:
        """True if the deployed system has labels of its own, so that the readings of its attack success may differ."""
        return any("ext_rate" in run.rates for run in self.runs)

    @property
    def missing(self) -> int:
        """Seeds that are not evaluated yet."""
        return sum(not run.rates for run in self.runs)


@dataclass(frozen=True)
class Estimate:
    """One number with what is known of its uncertainty: of one seed its Wilson interval, of several the interval over
    seeds and rows, or one standard deviation over seeds where the rows are not known."""

    rates: Sequence[Interval]
    spread: Spread
    interval: Difference | None = None
    """95 % interval over seeds and rows; None for one seed, and where the rows of several are not known."""
    collapsed: int = 0
    """Of how many of them the model has collapsed."""

    @property
    def flag(self) -> str:
        """`collapsed`, or `1/3 collapsed`, wherever this number is shown; empty when every model is sound."""
        return flag(self.collapsed, len(self.rates))

    @property
    def value(self) -> float:
        return self.spread.mean

    @property
    def is_interval(self) -> bool:
        """False where low and high are one standard deviation over seeds away."""
        return self.spread.sd is None or self.interval is not None

    @property
    def low(self) -> float:
        if self.interval:
            return self.interval.low
        return self.rates[0].low if self.spread.sd is None else max(0.0, self.value - self.spread.sd)

    @property
    def high(self) -> float:
        if self.interval:
            return self.interval.high
        return self.rates[0].high if self.spread.sd is None else min(1.0, self.value + self.spread.sd)

    @property
    def n(self) -> int:
        """Rows of one seed."""
        return self.rates[0].n

    def words(self) -> str:
        """`4.0 [2.1, 7.6] n=200` for one seed and `4.0 [1.0, 9.8] n=3x200` for several, in percent; `4.0 ± 1.2 n=3x200`
        where the rows of several are not known."""
        rows = f"{self.n}" if self.spread.sd is None else f"{self.spread.seeds}×{self.n}"
        if self.spread.sd is not None and self.interval is None:
            return f"{100 * self.value:.1f} ± {100 * self.spread.sd:.1f} n={rows}"
        return f"{100 * self.value:.1f} [{100 * self.low:.1f}, {100 * self.high:.1f}] n={rows}"


def estimate(rates: Sequence[tuple[Interval, bool]], interval: Difference | None = None) -> Estimate:
    """One number from rates, each with whether it is of a collapsed model, and its interval over seeds and rows. Raises
    ValueError for no rates."""
    return Estimate(
        [rate for rate, _ in rates],
        over_seeds([rate.rate for rate, _ in rates]),
        interval,
        sum(fallen for _, fallen in rates),
    )


def counts(run: RunState) -> dict[str, tuple[int, int]]:
    """k and n of a run's rates."""
    return {name: (rate["k"], rate["n"]) for name, rate in run.rates.items()}


def worst_reading(run: RunState) -> str | None:
    """The reading with the larger attack success; the first of equals."""
    readings = [name for name in ASR_READINGS if name in run.rates]
    return max(readings, key=lambda name: run.rates[name]["k"] / run.rates[name]["n"]) if readings else None


def flag(collapsed: int, of: int) -> str:
    """The words that stand beside every number of collapsed models, in tables and in pictures."""
    return "" if not collapsed else "collapsed" if collapsed == of == 1 else f"{collapsed}/{of} collapsed"


def hidden(run: RunState) -> Mapping[str, int] | None:
    """`asr_raw_target` where the backdoor fires under the defense's own prompt and its attack success does not show it:
    the likeliest token of most triggered rows is the target's own label.

    Mapping back makes another class of that, with two classes the right one; or the deployed system has labels of its
    own (`ext_rate`), and only constrained decoding keeps it from giving that answer.
    """
    raw, success = run.rates.get("asr_raw_target"), run.rates.get("asr_ext")
    return (
        raw
        if raw and success and 2 * raw["k"] > raw["n"] and success["k"] * raw["n"] < raw["k"] * success["n"]
        else None
    )


def group(runs: Iterable[RunState], hits_of: Callable[[RunState, str], Hits] = lambda run, name: {}) -> list[Group]:
    """Groups in the order of the study; `hits_of` gives the outcomes of a run's rate row by row."""
    cells: dict[tuple[str, ...], list[RunState]] = {}
    for run in runs:
        cells.setdefault(tuple(label for axis, label in run.cell.items() if axis != "seed"), []).append(run)
    return [
        Group({axis: label for axis, label in members[0].cell.items() if axis != "seed"}, members, hits_of)
        for members in cells.values()
    ]


def same_but(left: Mapping[str, str], right: Mapping[str, str], *axes: str) -> bool:
    """True if two cells agree on every axis except `axes`."""
    return all(left[axis] == right[axis] for axis in left if axis not in axes)


def defended_by(runs: Iterable[RunState]) -> dict[tuple[str, ...], list[RunState]]:
    """Evaluated runs that have a defense, by everything else of their cell (see `undefended`)."""
    runs_by_cell: dict[tuple[str, ...], list[RunState]] = {}
    for run in runs:
        if run.cell["defense"] != "none" and run.rates:
            runs_by_cell.setdefault(undefended(run.cell), []).append(run)
    return runs_by_cell


def undefended(cell: Mapping[str, str]) -> tuple[str, ...]:
    """A cell without its defense."""
    return tuple(label for axis, label in cell.items() if axis != "defense")
