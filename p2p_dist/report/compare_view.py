"""Two studies cell by cell: settings that differ, the rates of both, and whether a difference is more than chance."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from p2p_dist.report.study_data import StudyData
from p2p_dist.report.table import points
from p2p_dist.report.tables.comparisons import p_value
from p2p_dist.results.statistics import holm, mcnemar

RATES = ("ca_ext", "asr_ext", "asr_nobt")
_NO_SETTINGS = ("step", "phase", "suites")
"""Parts of a stage's spec that say what the stage is for."""


def to_json(left: StudyData, right: StudyData) -> dict[str, Any]:
    """The answer of `--json`: settings that differ, every rate of every cell that both have, and whether the model that
    it is of has collapsed; `p` where both answered the same rows."""
    rows = _rates(left, right)
    adjusted = holm({number: row["p"] for number, row in enumerate(rows) if row["p"] is not None})
    evaluated = [
        {tuple(run.cell.values()) for run in study_data.collected.runs if run.rates} for study_data in (left, right)
    ]
    return {
        "settings": differing_settings(left.specs, right.specs),
        "rates": [{**row, "p_holm": adjusted.get(number)} for number, row in enumerate(rows)],
        "only_first": [list(cell) for cell in sorted(evaluated[0] - evaluated[1])],
        "only_second": [list(cell) for cell in sorted(evaluated[1] - evaluated[0])],
    }


def _rates(left: StudyData, right: StudyData) -> list[dict[str, Any]]:
    """Every rate that a cell has in both studies, with the McNemar p over the rows that both answered."""
    others = {tuple(run.cell.values()): run for run in right.collected.runs}
    rows: list[dict[str, Any]] = []
    for run in left.collected.runs:
        other = others.get(tuple(run.cell.values()))
        if other is None:
            continue
        for name in (name for name in RATES if name in run.rates and name in other.rates):
            before, after = left.outcomes(run).get(name, {}), right.outcomes(other).get(name, {})
            rows.append(
                {
                    "cell": dict(run.cell),
                    "rate": name,
                    "first": dict(run.rates[name]),
                    "second": dict(other.rates[name]),
                    "first_collapsed": run.collapsed_for(name),
                    "second_collapsed": other.collapsed_for(name),
                    "p": mcnemar(before, after).p if before.keys() & after.keys() else None,
                }
            )
    return rows


def differing_settings(
    left: Mapping[str, Mapping[str, Any]], right: Mapping[str, Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Settings of the stages of two studies whose values differ, by path (`train.learning_rate`), each with its values
    in the one and the other; none where a study does not have it. Arguments are stages by id (`StudyData.specs`)."""
    first, second = _settings(left), _settings(right)
    paths = dict.fromkeys([*first, *second])
    return [
        {"setting": path, "first": first.get(path, []), "second": second.get(path, [])}
        for path in sorted(paths)
        if first.get(path) != second.get(path)
    ]


def _settings(stages: Mapping[str, Mapping[str, Any]]) -> dict[str, list[str]]:
    """Path of a setting -> its values over all stages, sorted, as text. An attack, a defense and a task are one value
    each, because their options belong together; `source` is the digest of a task's rows."""
    values: dict[str, set[str]] = {}
    for stage in stages.values():
        for path, value in _leaves("", stage["spec"]):
            values.setdefault(path, set()).add(value)
    return {path: sorted(texts) for path, texts in values.items()}


def _leaves(path: str, value: Any) -> Iterator[tuple[str, str]]:
    """Settings with their values as text. What is not set is no setting."""
    if value is None or path in _NO_SETTINGS:
        return
    if isinstance(value, Mapping) and "name" in value:
        options = ", ".join(f"{key}={inner}" for key, inner in value.items() if key != "name" and inner is not None)
        yield path, f"{value['name']}({options})" if options else str(value["name"])
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _leaves(f"{path}.{key}" if path else key, inner)
    else:
        yield path, str(value)


def settings_lines(comparison: Mapping[str, Any], first: str, second: str) -> list[str]:
    """The settings that differ, for a terminal: a line each, or one line that says that none does."""
    if not comparison["settings"]:
        return ["settings: the same in both studies"]
    lines = [f"settings that differ ({first} / {second}):"]
    for row in comparison["settings"]:
        values = [" | ".join(row[side]) or "–" for side in ("first", "second")]
        lines.append(f"  {row['setting']}: {values[0]} / {values[1]}")
    return lines


def table(comparison: Mapping[str, Any]) -> tuple[list[str], list[Sequence[object]]]:
    """Head and rows for a terminal, with the axes that vary."""
    cells = [row["cell"] for row in comparison["rates"]]
    axes = [axis for axis in (cells[0] if cells else ()) if len({cell[axis] for cell in cells}) > 1]
    rows: list[Sequence[object]] = []
    for row in comparison["rates"]:
        first, second = row["first"], row["second"]
        rates = [_shown(row[side], row[f"{side}_collapsed"]) for side in ("first", "second")]
        tested = ["–" if row[key] is None else p_value(row[key]) for key in ("p", "p_holm")]
        change = points(second["rate"] - first["rate"])
        rows.append([*(row["cell"][axis] for axis in axes), row["rate"], *rates, change, *tested])
    return [*axes, "rate", "first", "second", "change", "p", "p (Holm)"], rows


def _shown(rate: Mapping[str, Any], collapsed: bool) -> str:
    return f"{100 * rate['rate']:.1f} ({rate['k']}/{rate['n']})" + (" collapsed" if collapsed else "")
