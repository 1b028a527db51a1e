"""Two studies cell by cell: what one and the other measured, and whether the difference is more than chance."""

from collections.abc import Mapping, Sequence
from typing import Any

from p2p_dist.report.study_data import StudyData
from p2p_dist.report.tables.comparisons import p_value, points
from p2p_dist.results.statistics import holm, mcnemar

RATES = ("ca_ext", "asr_ext", "asr_nobt")


def facts(left: StudyData, right: StudyData) -> dict[str, Any]:
    """What `--json` prints: every rate of every cell that both have, and whether the model that it is of has collapsed;
    `p` where both answered the same rows."""
    others = {tuple(run.cell.values()): run for run in right.found.runs}
    rows: list[dict[str, Any]] = []
    for run in left.found.runs:
        other = others.get(tuple(run.cell.values()))
        if other is None or not (run.rates and other.rates):
            continue
        for name in (name for name in RATES if name in run.rates and name in other.rates):
            before, after = left.outcomes(run).get(name, {}), right.outcomes(other).get(name, {})
            p = mcnemar(before, after).p if before.keys() & after.keys() else None
            fallen = {"first_collapsed": run.collapsed_for(name), "second_collapsed": other.collapsed_for(name)}
            rows.append(
                {
                    "cell": dict(run.cell),
                    "rate": name,
                    "first": dict(run.rates[name]),
                    "second": dict(other.rates[name]),
                    **fallen,
                    "p": p,
                }
            )
    adjusted = holm({at: row["p"] for at, row in enumerate(rows) if row["p"] is not None})
    ours, theirs = (
        {tuple(run.cell.values()) for run in study_data.found.runs if run.rates} for study_data in (left, right)
    )
    return {
        "rates": [{**row, "p_holm": adjusted.get(at)} for at, row in enumerate(rows)],
        "only_first": [list(cell) for cell in sorted(ours - theirs)],
        "only_second": [list(cell) for cell in sorted(theirs - ours)],
    }


def table(found: dict[str, Any]) -> tuple[list[str], list[Sequence[object]]]:
    """The same as head and rows for a terminal."""
    rows: list[Sequence[object]] = []
    for row in found["rates"]:
        first, second = row["first"], row["second"]
        rates = [_shown(row[side], row[f"{side}_collapsed"]) for side in ("first", "second")]
        tested = ["–" if row[key] is None else p_value(row[key]) for key in ("p", "p_holm")]
        rows.append([*row["cell"].values(), row["rate"], *rates, points(second["rate"] - first["rate"]), *tested])
    return [
        "task",
        "model",
        "attack",
        "defense",
        "seed",
        "rate",
        "first",
        "second",
        "difference",
        "p",
        "p (Holm)",
    ], rows


def _shown(rate: Mapping[str, Any], collapsed: bool) -> str:
    return f"{100 * rate['rate']:.1f} ({rate['k']}/{rate['n']})" + (" collapsed" if collapsed else "")
