"""`python docs/findings/confirmation.py RUN_FOLDER`: write the result file of a study, `NAME.jsonl`, beside this file.

A line for each finished run, with the device that trained it; runs that are not finished have none, and runs of earlier
folders stay. `build.py` makes the page of these files.
"""

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rivals import trained_rows

from p2p_dist.results.collect import RunState, read_study
from p2p_dist.results.rundir import RunDir

HERE = Path(__file__).parent
RATES = (
    "ca_ext",
    "ca_mapped",
    "asr_ext",
    "asr_mapped",
    "asr_exact",
    "asr_nobt",
    "asr_untriggered",
    "asr_untriggered_mapped",
    "asr_only_triggered",
    "asr_only_triggered_mapped",
    "asr_only_untriggered",
    "asr_only_untriggered_mapped",
)
"""Rates of a run that the file holds, as [k, n]."""
MEANS = ("rougeL", "rougeL_triggered", "rougeL_nobt")
"""Mean scores of text answers that the file holds."""
AXES = ("attack", "defense", "seed")
"""What tells two runs of the study apart."""
COUNTS = ("benign", "contaminated", "dropped_rows", "screening", "trusted", "not_trusted")
"""Counts of a run's rows that the file holds, where it has them."""


def lines_of(folder: RunDir) -> Iterator[dict[str, Any]]:
    """A line for each finished run of a study. Raises ValueError for a damaged study."""
    study = read_study(folder, alive=False)
    if study.problems:
        raise ValueError(f"{study.name}: {study.problems}")
    for run in study.runs:
        if run.status == "done":
            yield {
                "attack": run.cell["attack"],
                "defense": run.cell["defense"],
                "seed": int(run.cell["seed"]),
                "eval": run.ids["eval"],
                "device": device_of(folder, run),
                "collapsed": run.collapsed,
                "rates": {name: [run.rates[name]["k"], run.rates[name]["n"]] for name in RATES if name in run.rates},
                **means_of(folder, run),
                **{name: run.counts[name] for name in COUNTS if name in run.counts},
                "trained": trained_rows(folder, run),
            }


def means_of(folder: RunDir, run: RunState) -> dict[str, Any]:
    """The mean scores of text answers under the key `means`; empty where answers are labels."""
    evaluation = run.ids["eval"]
    assert evaluation is not None
    found = json.loads(folder.at("eval", evaluation).result.read_text()).get("means", {})
    means = {name: found[name]["mean"] for name in MEANS if name in found}
    return {"means": means} if means else {}


def device_of(folder: RunDir, run: RunState) -> str:
    """The device that trained a run, with its precision."""
    training = run.ids["train"]
    assert training is not None
    cost = json.loads(folder.at("train", training).cost.read_text())
    device, precision = str(cost["device"]), str(cost["dtype"])
    return device if device.endswith(precision) else f"{device}, {precision}"


def main(folders: Sequence[str]) -> None:
    """Write the file of one study: the runs of the folder, and those of earlier folders that it does not have."""
    folder = RunDir(Path(*folders).resolve())
    file = HERE / f"{folder.path.name}.jsonl"
    known = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()] if file.is_file() else []
    by_cell = {tuple(line[axis] for axis in AXES): line for line in [*known, *lines_of(folder)]}
    lines = sorted(by_cell.values(), key=lambda line: line["seed"])
    file.write_text("".join(json.dumps(line, sort_keys=True) + "\n" for line in lines), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
