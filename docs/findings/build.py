"""`python docs/findings/build.py`: write `docs/findings.md` from its template and the result files beside it.

`findings.md.j2` has the sentences; every rate in them comes from a line of a result file by the functions below. A test
compares the page with what this makes of the files.

A rate over one seed has its Wilson interval over rows. A rate over several seeds is their mean, with the interval of
Student's t over the seeds, widened to the Wilson interval of one seed's rows where that is wider: the result files hold
counts by seed and not rows, and all seeds were asked the same rows.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, StrictUndefined
from scipy import stats

from p2p_dist.results.paired_rates import excess_of
from p2p_dist.results.statistics import ALPHA, wilson

HERE = Path(__file__).parent
PAGE = HERE.parent / "findings.md"
COLUMNS = {
    "poisoned benign rows": "contaminated",
    "attack success": "asr_ext",
    "every label allowed": "asr_mapped",
    "the same rows untriggered": "asr_untriggered_mapped",
    "excess": "asr_excess_mapped",
    "without the prompt": "asr_nobt",
    "clean accuracy": "ca_ext",
}
"""Columns of a table by title: a rate, its excess over the same rows untriggered, or the count of poisoned rows that
P2P took for benign."""
OF_TEXT = {
    "poisoned benign rows": "contaminated",
    "attack success": "asr_ext",
    "the same rows untriggered": "asr_untriggered",
    "without the prompt": "asr_nobt",
    "ROUGE-L": "rougeL",
}
"""The columns where answers are text."""

PAIRED = ("asr_mapped", "asr_only_triggered_mapped", "asr_only_untriggered_mapped")
"""Rates that an excess is computed from: triggered rows that reach the target, and the rows of which one alone of the
triggered and the untriggered text does."""


@dataclass(frozen=True)
class Arm:
    """Runs that differ only in their seed, in the order of the seeds."""

    runs: Sequence[Mapping[str, Any]]

    def counts(self, rate: str) -> list[tuple[int, int]]:
        """k and n of a rate by seed, of the seeds that have it."""
        return [(k, n) for run in self.runs if rate in run["rates"] for k, n in [run["rates"][rate]]]


def runs(file: str, **settings: Any) -> Arm:
    """The runs of a result file with these settings; a setting that is None must be absent.

    `draws` is the number of screening trainings. Raises ValueError when no run fits, or two of one seed.
    """
    lines = (HERE / f"{file}.jsonl").read_text(encoding="utf-8").splitlines()
    records = [json.loads(line) for line in lines]
    for record in records:
        record["draws"] = len(record.get("screening") or ()) or None
    chosen = [record for record in records if all(record.get(key) == value for key, value in settings.items())]
    seeds = [record["seed"] for record in chosen]
    if not seeds or len(seeds) != len(set(seeds)):
        raise ValueError(f"{file} has runs of seeds {seeds} with {settings}; each seed is needed once")
    return Arm(sorted(chosen, key=lambda record: record["seed"]))


def rate(arm: Arm, name: str) -> str:
    """`6.7 % (2.0-11.4; 9, 16, 15 of 200)`: mean, 95 % interval, and counts by seed. Empty where there is none."""
    counts = arm.counts(name)
    if not counts:
        return ""
    low, high = interval(counts)
    (rows,) = {n for _, n in counts}
    mean = np.mean([k / n for k, n in counts])
    return f"{100 * mean:.1f} % ({100 * low:.1f}-{100 * high:.1f}; {', '.join(str(k) for k, _ in counts)} of {rows})"


def interval(counts: Sequence[tuple[int, int]]) -> tuple[float, float]:
    """95 % interval of the mean rate: Wilson over rows for one seed, Student's t over seeds for several, and never
    narrower than Wilson over the rows of one seed, which all seeds share."""
    rows = counts[0][1]
    of_rows = wilson(round(sum(k for k, _ in counts) / len(counts)), rows)
    if len(counts) == 1:
        return of_rows.low, of_rows.high
    low, high = _student([k / n for k, n in counts])
    return max(0.0, min(low, of_rows.low)), min(1.0, max(high, of_rows.high))


def difference(first: Arm, second: Arm, name: str) -> str:
    """`-1.3 points (-2.7 to 0.1)`: second minus first, paired by seed, with the interval of Student's t over seeds.

    Raises ValueError unless both have the same two seeds or more.
    """
    if [run["seed"] for run in first.runs] != [run["seed"] for run in second.runs] or len(first.runs) < 2:
        raise ValueError("a difference needs the same seeds on both sides, and two of them")
    pairs = zip(first.counts(name), second.counts(name), strict=True)
    changes = [after / m - before / n for (before, n), (after, m) in pairs]
    low, high = _student(changes)
    return f"{100 * np.mean(changes):+.1f} points ({100 * low:+.1f} to {100 * high:+.1f})"


def excess(arm: Arm) -> str:
    """`+8.0 points (-17.4 to +33.4; +6.0, +10.0)`: attack success with every label allowed, above the same rows without
    the trigger; for several seeds with the excess of each.

    The interval is that of paired rows for one seed; over the excesses of several it is Student's t, and never narrower
    than that of one seed's rows. Empty where a seed lacks the paired rates."""
    found = [run["rates"] for run in arm.runs]
    if not all(name in rates for rates in found for name in PAIRED):
        return ""
    (rows,) = {rates[name][1] for rates in found for name in PAIRED}
    middle = {name: (round(np.mean([rates[name][0] for rates in found])), rows) for name in PAIRED}
    excesses = [(rates[PAIRED[1]][0] - rates[PAIRED[2]][0]) / rows for rates in found]
    of_rows = excess_of(middle, PAIRED[0])
    assert of_rows is not None
    low, high = _student(excesses) if len(excesses) > 1 else (of_rows.low, of_rows.high)
    low, high = min(low, of_rows.low), max(high, of_rows.high)
    by_seed = f"; {', '.join(f'{100 * one:+.1f}' for one in excesses)}" if len(excesses) > 1 else ""
    return f"{100 * np.mean(excesses):+.1f} points ({100 * low:+.1f} to {100 * high:+.1f}{by_seed})"


def _student(values: Sequence[float]) -> tuple[float, float]:
    """95 % interval of the mean of a few values (Student's t)."""
    mean, half = float(np.mean(values)), 0.0
    if spread := float(np.std(values, ddof=1)):
        half = float(stats.t.ppf(1 - ALPHA / 2, len(values) - 1)) * spread / float(np.sqrt(len(values)))
    return mean - half, mean + half


def table(
    title: str, arms: Mapping[str, Arm], leave_out: Sequence[str] = (), titles: Mapping[str, str] = COLUMNS
) -> str:
    """A table with a line for each arm; columns without any number are left out."""
    cells = {
        column: [_cell(arm, key) for arm in arms.values()] for column, key in titles.items() if column not in leave_out
    }
    columns = [column for column, texts in cells.items() if any(texts)]
    head = f"| {title} | {' | '.join(columns)} |\n|{'---|' * (len(columns) + 1)}"
    lines = [f"| {label} | {' | '.join(cells[column][row] for column in columns)} |" for row, label in enumerate(arms)]
    return "\n".join([head, *lines])


def _cell(arm: Arm, key: str) -> str:
    if key == "asr_excess_mapped":
        return excess(arm)
    if key == "rougeL":
        return ", ".join(f"{run['means'][key]:.3f}" for run in arm.runs if key in run.get("means", {}))
    if key != "contaminated":
        return rate(arm, key)
    counted = [run for run in arm.runs if "contaminated" in run and "benign" in run]
    if not counted:
        return ""
    return f"{', '.join(str(run['contaminated']) for run in counted)} of {counted[0]['benign']}"


def build() -> str:
    """The page."""
    environment = Environment(undefined=StrictUndefined, autoescape=False, keep_trailing_newline=True)
    template = environment.from_string((HERE / "findings.md.j2").read_text(encoding="utf-8"))
    return template.render(runs=runs, rate=rate, difference=difference, excess=excess, table=table, of_text=OF_TEXT)


if __name__ == "__main__":
    PAGE.write_text(build(), encoding="utf-8")
