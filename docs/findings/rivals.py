"""`python docs/findings/rivals.py [RUN_FOLDER ...]`: write `docs/rivals.md` from `rivals.jsonl` beside this file.

With run folders of the studies `rivals_small`, `rivals_small_text` and `rivals_small_images`, `rivals.jsonl` is first
written from their results, a line for each run. `rivals.md.j2` has the sentences of the page; every number in it comes
from a line of the file by the functions below. A test compares the page with what this makes of the file.
"""

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined

from p2p_dist.results.collect import RunState, read_study
from p2p_dist.results.rundir import RunDir

HERE = Path(__file__).parent
FILE = HERE / "rivals.jsonl"
PAGE = HERE.parent / "rivals.md"
RATES = ("ca_ext", "asr_ext", "asr_nobt", "rejected_clean", "rejected_triggered", "replaced_rate_triggered")
"""Rates of a run that the file holds, as [k, n]."""

Line = dict[str, Any]


def lines_of(folder: RunDir) -> Iterator[Line]:
    """A line for each run of a finished study. Raises ValueError for a run without a result."""
    study = read_study(folder, alive=False)
    for run in study.runs:
        if run.status != "done" or study.problems:
            raise ValueError(f"{study.name}: run {run.cell} is {run.status}; problems: {study.problems}")
        yield {
            "study": study.name,
            "attack": run.cell["attack"],
            "defense": run.cell["defense"],
            "eval": run.ids["eval"],
            "rates": {name: [run.rates[name]["k"], run.rates[name]["n"]] for name in RATES if name in run.rates},
            "collapsed": run.collapsed,
            "trained": trained_rows(folder, run),
            "edited": run.counts.get("edited", {}).get("triggered"),
        }


def trained_rows(folder: RunDir, run: RunState) -> dict[str, int]:
    """Rows by origin that the run's last training was given."""
    training = run.ids["train"]
    assert training is not None
    rows = folder.train_stage(training).reads.rows
    counts = json.loads(folder.at("data", rows).manifest.read_text())["counts"]["train"]
    return {origin: sum(by_class.values()) for origin, by_class in sorted(counts.items())}


def read() -> list[Line]:
    """The lines of the file."""
    return [json.loads(line) for line in FILE.read_text(encoding="utf-8").splitlines()]


def of(lines: Sequence[Line], study: str) -> list[Line]:
    """The runs of a study."""
    return [line for line in lines if line["study"] == study]


def names(lines: Sequence[Line], axis: str) -> list[str]:
    """The names on an axis, in their order."""
    return list(dict.fromkeys(line[axis] for line in lines))


def counted(rates: dict[str, list[int]], name: str) -> str:
    """k of a rate, or a dash where the run has none."""
    return str(rates[name][0]) if name in rates else "-"


def table(lines: Sequence[Line]) -> str:
    """A row for each defense: attack success and clean accuracy under every attack, and its effect on the rows of the
    first attack. Rates are counts; `sizes` says of how many rows. No rates where all are zero."""
    attacks = names(lines, "attack")
    shown = next(attack for attack in attacks if attack != "none")
    columns = [] if all_zero(lines) else attacks
    head = ["defense", *(f"`{short(attack)}`" for attack in columns), f"rows of `{short(shown)}` trained on", "and"]
    rows = [head, ["---"] * len(head)]
    for defense in names(lines, "defense"):
        runs = {line["attack"]: line for line in lines if line["defense"] == defense}
        cells = [
            f"{counted(runs[attack]['rates'], 'asr_ext')} / {counted(runs[attack]['rates'], 'ca_ext')}"
            for attack in columns
        ]
        rows.append([f"`{defense}`", *cells, rows_of(runs[shown]), witness(runs[shown])])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def all_zero(lines: Sequence[Line]) -> bool:
    """True if no run has an attack success or a right answer, so that a table of rates would be zeros alone."""
    return not any(line["rates"][name][0] for line in lines for name in ("asr_ext", "ca_ext") if name in line["rates"])


def short(attack: str) -> str:
    """The plug-in of an attack's name."""
    return str(attack).partition("(")[0]


def rows_of(line: Line) -> str:
    """`60: 6 poisoned, 24 injected`; the rest is clean, or unknown in rows of one's own."""
    rest = [f"{count} {name}" for name, count in line["trained"].items() if count and name not in ("clean", "unknown")]
    return f"{sum(line['trained'].values())}{': ' if rest else ''}{', '.join(rest)}"


def witness(line: Line) -> str:
    """Counts that only some defenses have."""
    rates = line["rates"]
    words = {
        "asr_nobt": "attack successes without its prompt",
        "rejected_triggered": "triggered rows refused",
        "replaced_rate_triggered": "triggered answers with a replaced token",
    }
    parts = [f"{rates[name][0]} of {rates[name][1]} {text}" for name, text in words.items() if name in rates]
    if line["edited"]:
        parts.append(f"{line['edited']['changed']} of {line['edited']['rows']} triggered texts edited")
    return "; ".join(parts)


def sizes(lines: Sequence[Line]) -> dict[str, int]:
    """Triggered and clean test rows, and training rows before any defense, of a study."""
    attacked = next(line for line in lines if line["attack"] != "none" and line["defense"] == "none")
    return {
        "triggered": attacked["rates"]["asr_ext"][1],
        "clean": attacked["rates"]["ca_ext"][1],
        "train": sum(attacked["trained"].values()),
    }


def build() -> str:
    """The page."""
    environment = Environment(undefined=StrictUndefined, autoescape=False, keep_trailing_newline=True)
    template = environment.from_string((HERE / "rivals.md.j2").read_text(encoding="utf-8"))
    return template.render(lines=read(), of=of, table=table, sizes=sizes, names=names, all_zero=all_zero)


def main(folders: Sequence[str]) -> None:
    """Write the file, if run folders are given, and the page."""
    if folders:
        lines = [line for folder in folders for line in lines_of(RunDir(Path(folder)))]
        FILE.write_text("".join(json.dumps(line, sort_keys=True) + "\n" for line in lines), encoding="utf-8")
    PAGE.write_text(build(), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
