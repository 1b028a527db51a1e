"""How far a study is, in words and as facts."""

from collections import Counter
from dataclasses import asdict
from typing import Any

from p2p_dist.results.collect import Collected, StageState


def facts(found: Collected, owner: str | None) -> dict[str, Any]:
    """What `--json` prints."""
    runs = found.runs
    return {
        "owner": owner,
        "runs": len(runs),
        "done": sum(run.status == "done" for run in runs),
        "by_status": dict(Counter(run.status for run in runs)),
        "problems": [asdict(problem) for problem in found.problems],
        "table": [
            {
                "cell": dict(run.cell),
                "status": run.status,
                "rates": dict(run.rates),
                "asr_floor": run.floor,
                "stages": [{"id": s.id, "kind": s.kind, "status": s.status, "progress": dict(s.progress), "log": s.log} for s in run.stages],
            }
            for run in runs
        ],
    }


def text(found: Collected, owner: str | None) -> str:
    """What `p2p-dist status` prints: a line per run, the log of every failed stage, and every file that is doubtful."""
    runs = found.runs
    done = sum(run.status == "done" for run in runs)
    lines = [f"{found.name}: {done} of {len(runs)} done; " + (f"{owner} works on it" if owner else "nobody works on it")]
    for run in runs:
        cell = ", ".join(f"{axis} {label}" for axis, label in run.cell.items())
        now = next((_progress(stage) for stage in run.stages if stage.status == "running"), "")
        lines.append(f"  {run.status:8} {cell}{now}")
    failed = {stage.id: stage for run in runs for stage in run.stages if stage.status == "failed"}
    lines += [f"  failed: {stage.kind} {id_}, see {stage.log}" for id_, stage in failed.items()]
    lines += [str(problem) for problem in found.problems]
    return "\n".join(lines)


def _progress(stage: StageState) -> str:
    line = stage.progress
    if "step" in line:
        return f"  [train step {line['step']}/{line['steps']}, loss {line['loss']:.3f}]"
    if "rows" in line:
        return f"  [{stage.kind} row {line['rows']}/{line['of']}]"
    return f"  [{stage.kind}]"
