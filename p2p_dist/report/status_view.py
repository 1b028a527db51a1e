"""Progress of a study as text and as JSON."""

import time
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

from p2p_dist.config.plugin_files import left_out_lines
from p2p_dist.errors import printable
from p2p_dist.report.text_columns import clock
from p2p_dist.results.collect import Collected, StageState, read_study
from p2p_dist.results.lease import job_owners, owner
from p2p_dist.results.logs import tail
from p2p_dist.results.progress import read_progress
from p2p_dist.results.rundir import RunDir

_ORDER = ("running", "failed", "pending", "done")


def read_state(folder: RunDir) -> tuple[Collected, str | None]:
    """A study as its files show it now, and who works on it: one controller, or several that share its jobs."""
    owners = owner(folder.lease) or ", ".join(job_owners(folder.path)) or None
    return read_study(folder, alive=owners is not None), owners


def follow(folder: RunDir, seconds: float = 2.0) -> None:
    """Show a study until nothing of it is left to do, reading its files again and again."""
    from rich.live import Live  # a tenth of a second that a single look does without
    from rich.text import Text

    with Live(Text(), refresh_per_second=4) as view:
        while True:
            state, owners = read_progress(folder)
            view.update(Text(text(state, owners, view.console.height - 3)), refresh=True)
            if not any(run.status in ("running", "pending") for run in state.runs):
                return
            time.sleep(seconds)


def to_json(state: Collected, owner: str | None) -> dict[str, Any]:
    """Content of `p2p-dist status --json`."""
    runs = state.runs
    return {
        "owner": owner,
        "runs": len(runs),
        "done": sum(run.status == "done" for run in runs),
        "left_out": dict(Counter(state.left_out)),
        "by_status": dict(Counter(run.status for run in runs)),
        "problems": [asdict(problem) for problem in state.problems],
        "quarantined": [asdict(each) for each in state.quarantined],
        "table": [
            {
                "cell": dict(run.cell),
                "status": run.status,
                "rates": dict(run.rates),
                "asr_floor": run.floor,
                "collapsed": run.collapsed,
                "failed_screening": run.failed_screening.reason if run.failed_screening else None,
                "stages": [
                    {"id": s.id, "kind": s.kind, "status": s.status, "progress": dict(s.progress), "log": s.log}
                    for s in run.stages
                ],
            }
            for run in runs
        ],
    }


def text(state: Collected, owner: str | None, shown: int | None = None) -> str:
    """Text of `p2p-dist status`: runs by state, a line per run (at most `shown`, running ones first), the log of every
    failed stage with its last lines, and every doubtful file."""
    runs = state.runs
    states = Counter(run.status for run in runs)
    by_state = ", ".join(f"{states[state]} {state}" for state in ("running", "failed", "pending") if states[state])
    lines = [
        *state.failed_screenings(),
        f"{state.name}: {states['done']} of {len(runs)} done; {owner or 'nobody'} works on it"
        + (f"; {by_state}" if by_state else ""),
        *(f"  {line}" for line in left_out_lines(state.left_out)),
    ]
    listed = runs if shown is None else sorted(runs, key=lambda run: _ORDER.index(run.status))[:shown]
    for run in listed:
        cell = ", ".join(f"{axis} {label}" for axis, label in run.cell.items())
        now = next((_progress(stage) for stage in run.stages if stage.status == "running"), "")
        lines.append(f"  {run.status:8} {cell}{now}")
    failed = {stage.id: stage for run in runs for stage in run.stages if stage.status == "failed"}
    for id_, stage in failed.items():
        lines += [
            f"  failed: {stage.kind} {id_}, see {stage.log}",
            *(f"    | {line}" for line in tail(Path(stage.log), lines=5)),
        ]
    lines += [f"  out of use: {each.device}, a device fault, see {each.log}" for each in state.quarantined]
    lines += [str(problem) for problem in state.problems]
    return "\n".join(printable(part, keep="\t") for line in lines for part in line.split("\n"))


def _progress(stage: StageState) -> str:
    line = stage.progress
    if all(line.get(name) is not None for name in ("step", "steps", "loss", "seconds")):
        step, steps, loss, seconds = line["step"], line["steps"], line["loss"], line["seconds"]
        left = seconds / max(1, step) * max(0, steps - step)
        return f"  [train step {step}/{steps}, loss {loss:.3f}, about {clock(left)} left{_gpu(stage)}]"
    if "rows" in line and "of" in line:
        return f"  [{stage.kind} row {line['rows']}/{line['of']}{_gpu(stage)}]"
    return f"  [{stage.kind}]"


def _gpu(stage: StageState) -> str:
    """Load and memory of the main rank's GPU when the progress line was written; empty without a GPU."""
    percent, memory = stage.progress.get("gpu_percent"), stage.progress.get("gpu_mib")
    return (f", GPU {percent} % busy" if percent is not None else "") + (
        f", {memory / 1024:.1f} GiB of it in use" if memory is not None else ""
    )
