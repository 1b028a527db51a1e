"""Runs that differ only in their seed, taken together: what tables and pictures show."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from p2p_dist.results.collect import RunState
from p2p_dist.results.statistics import Interval, Spread, over_seeds, wilson

ASR_READINGS = ("asr_ext", "asr_mapped")
"""Readings of attack success: answers held to the deployed system's own labels; every label allowed and mapped back."""


@dataclass(frozen=True)
class Group:
    """All seeds of one cell of the grid. `cell` has every axis but the seed."""

    cell: Mapping[str, str]
    runs: Sequence[RunState]

    @cached_property
    def _rates(self) -> dict[str, list[tuple[Interval, bool]]]:
        rates: dict[str, list[tuple[Interval, bool]]] = {}
        for run in self.runs:
            for name, rate in run.rates.items():
                rates.setdefault(name, []).append((wilson(rate["k"], rate["n"]), run.collapsed_for(name)))
            if readings := [run.rates[name] for name in ASR_READINGS if name in run.rates]:
                worst = max(readings, key=lambda rate: rate["k"] / rate["n"])
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
        rates = self.rates(name)
        return estimate(rates) if rates else None

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
    """One number with what is known of its uncertainty: of one seed its Wilson interval, of several the deviation over
    seeds."""

    rates: Sequence[Interval]
    spread: Spread
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
    def low(self) -> float:
        return self.rates[0].low if self.spread.sd is None else max(0.0, self.value - self.spread.sd)

    @property
    def high(self) -> float:
        return self.rates[0].high if self.spread.sd is None else min(1.0, self.value + self.spread.sd)

    @property
    def n(self) -> int:
        """Rows of one seed."""
        return self.rates[0].n

    def words(self) -> str:
        """`4.0 [2.1, 7.6] n=200` for one seed, `4.0 ± 1.2 n=3x200` for several, in percent."""
        if self.spread.sd is None:
            return f"{100 * self.value:.1f} [{100 * self.low:.1f}, {100 * self.high:.1f}] n={self.n}"
        return f"{100 * self.value:.1f} ± {100 * self.spread.sd:.1f} n={self.spread.seeds}×{self.n}"


def estimate(rates: Sequence[tuple[Interval, bool]]) -> Estimate:
    """One number from rates, each with whether it is of a collapsed model. Raises ValueError for none."""
    return Estimate(
        [rate for rate, _ in rates], over_seeds([rate.rate for rate, _ in rates]), sum(fallen for _, fallen in rates)
    )


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


def group(runs: Iterable[RunState]) -> list[Group]:
    """Groups in the order of the study."""
    cells: dict[tuple[str, ...], list[RunState]] = {}
    for run in runs:
        cells.setdefault(tuple(label for axis, label in run.cell.items() if axis != "seed"), []).append(run)
    return [
        Group({axis: label for axis, label in members[0].cell.items() if axis != "seed"}, members)
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
