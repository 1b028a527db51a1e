"""Paired tests on the same rows: defended against attacked models, and every rival defense against P2P."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product

from p2p_dist.report.groups import Group, same_but
from p2p_dist.report.study_data import StudyData
from p2p_dist.results import crossed
from p2p_dist.results.statistics import Difference, difference_of, holm, mcnemar

LIMIT = 300
"""Above this many runs paired tests are left out: they read every prediction of the study."""
RATES = ("asr_ext", "ca_ext")


@dataclass(frozen=True)
class Comparison:
    """Two groups that differ in their defense only, on one rate. `p` is McNemar's for one seed, and for several that of
    a test over seeds and rows; `adjusted` is the same after Holm's correction over all comparisons of the study."""

    rate: str
    before: Group
    after: Group
    seeds: int
    rows: int
    difference: Difference
    p: float
    adjusted: float


def compare(study_data: StudyData) -> list[Comparison]:
    """Every pair worth a test. Empty above LIMIT runs."""
    if len(study_data.collected.runs) > LIMIT:
        return []
    pairs = [
        made
        for before, after in _pairs(study_data.groups)
        for rate in RATES
        if (made := _compare(study_data, rate, before, after))
    ]
    adjusted = holm({index: comparison.p for index, comparison in enumerate(pairs)})
    return [replace(comparison, adjusted=adjusted[index]) for index, comparison in enumerate(pairs)]


def left_out(study_data: StudyData) -> Iterator[str]:
    """Says so where `compare` has nothing because of LIMIT."""
    if len(study_data.collected.runs) > LIMIT:
        yield (
            f"No paired tests: the study has {len(study_data.collected.runs)} runs, and above {LIMIT} they would take "
            "longer than all else here. "
            "Run a part of the grid (`model=NAME --replace`): nothing is trained again, and its report has them."
        )


def _compare(study_data: StudyData, rate: str, before: Group, after: Group) -> Comparison | None:
    """The comparison before Holm's correction; None where no seed has rows that both answered."""
    firsts, seconds = [], []
    seeds = {run.cell["seed"]: run for run in after.runs}
    for run in before.runs:
        other = seeds.get(run.cell["seed"])
        first = study_data.outcomes(run).get(rate)
        second = study_data.outcomes(other).get(rate) if other else None
        if first and second and first.keys() & second.keys():
            firsts.append(first)
            seconds.append(second)
    if not firsts:
        return None
    paired = mcnemar(firsts[0], seconds[0])
    if len(firsts) == 1:
        return Comparison(rate, before, after, 1, paired.n, difference_of(paired), paired.p, paired.p)
    p = crossed.p_value(firsts, seconds)
    difference = crossed.difference_interval(firsts, seconds)
    return Comparison(rate, before, after, len(firsts), paired.n, difference, p, p)


def _pairs(groups: Sequence[Group]) -> list[tuple[Group, Group]]:
    """(undefended, defended) and (P2P, rival) of every attacked cell."""
    pairs = []
    for before, after in product(groups, groups):
        if (
            before.attack == "none"
            or before.defense == after.defense
            or not same_but(before.cell, after.cell, "defense")
        ):
            continue
        is_p2p = before.defense.partition("(")[0] == "p2p"
        rival = after.defense != "none" and after.defense.partition("(")[0] != "p2p"
        if before.defense == "none" or (is_p2p and rival):
            pairs.append((before, after))
    return pairs
