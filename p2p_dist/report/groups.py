"""Runs that differ only in their seed, taken together: what tables and pictures show."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from p2p_dist.evaluation.metrics import Rate, collapsed
from p2p_dist.results.collect import RunState
from p2p_dist.results.statistics import Interval, Spread, over_seeds, wilson


@dataclass(frozen=True)
class Group:
    """All seeds of one cell of the grid. `cell` has every axis but the seed."""

    cell: Mapping[str, str]
    runs: Sequence[RunState]

    @cached_property
    def _rates(self) -> dict[str, list[Interval]]:
        found: dict[str, list[Interval]] = {}
        for run in self.runs:
            for name, rate in {**run.rates, **({"floor": run.floor} if run.floor else {})}.items():
                found.setdefault(name, []).append(wilson(rate["k"], rate["n"]))
        return found

    def rates(self, name: str) -> list[Interval]:
        """A rate of every seed that has it; `floor` is the clean model's ASR on the same rows."""
        return self._rates.get(name, [])

    def rate(self, name: str) -> "Estimate | None":
        """The rate over the seeds that have it."""
        found = self.rates(name)
        return Estimate(found, over_seeds([rate.rate for rate in found])) if found else None

    @property
    def attack(self) -> str:
        return self.cell["attack"]

    @property
    def defense(self) -> str:
        return self.cell["defense"]

    @property
    def collapsed(self) -> int:
        """Seeds whose model gives (almost) every clean row one answer: their attack rates say nothing about the defense."""
        return sum(is_collapsed(run) for run in self.runs)

    @property
    def missing(self) -> int:
        """Seeds that are not evaluated yet."""
        return sum(not run.rates for run in self.runs)


@dataclass(frozen=True)
class Estimate:
    """One number with what is known of its uncertainty: of one seed its Wilson interval, of several the deviation over seeds."""

    rates: Sequence[Interval]
    spread: Spread

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


def is_collapsed(run: RunState) -> bool:
    """See `evaluation.metrics.collapsed`."""
    usual = run.rates.get("majority_answer")
    return usual is not None and collapsed({"majority_answer": Rate(usual["k"], usual["n"])})


def group(runs: Iterable[RunState]) -> list[Group]:
    """Groups in the order of the study."""
    cells: dict[tuple[str, ...], list[RunState]] = {}
    for run in runs:
        cells.setdefault(tuple(label for axis, label in run.cell.items() if axis != "seed"), []).append(run)
    return [Group({axis: label for axis, label in members[0].cell.items() if axis != "seed"}, members) for members in cells.values()]


def same_but(left: Mapping[str, str], right: Mapping[str, str], *axes: str) -> bool:
    """Whether two cells agree on every axis but these."""
    return all(left[axis] == right[axis] for axis in left if axis not in axes)


def defended_by(runs: Iterable[RunState]) -> dict[tuple[str, ...], list[RunState]]:
    """Evaluated runs that have a defense, by everything else of their cell (see `undefended`)."""
    found: dict[tuple[str, ...], list[RunState]] = {}
    for run in runs:
        if run.cell["defense"] != "none" and run.rates:
            found.setdefault(undefended(run.cell), []).append(run)
    return found


def undefended(cell: Mapping[str, str]) -> tuple[str, ...]:
    """A cell without its defense."""
    return tuple(label for axis, label in cell.items() if axis != "defense")
