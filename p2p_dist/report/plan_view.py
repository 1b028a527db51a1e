"""A plan in words and as facts."""

from collections import Counter
from collections.abc import Collection, Sequence
from typing import Any

from p2p_dist.planning.cluster import ClusterSpec
from p2p_dist.planning.jobs import Job
from p2p_dist.spec.expand import Expansion

_SHOWN = 40


def facts(expansion: Expansion, done: Collection[str], jobs: Sequence[Job], cluster: ClusterSpec) -> dict[str, Any]:
    """What `--json` prints."""
    stages = expansion.graph.stages
    uses = Counter(id_ for run in expansion.runs for id_ in run.stages)
    kinds = Counter(stage.kind for stage in stages.values())
    wanted = Counter(stages[id_].kind for run in expansion.runs for id_ in run.stages)
    return {
        "runs": [{**run.to_json(), "done": set(run.stages) <= set(done)} for run in expansion.runs],
        "stages": [{"id": id_, "kind": stage.kind, "done": id_ in done, "runs": uses[id_], "reads": dict(stage.reads)} for id_, stage in stages.items()],
        "counts": {
            kind: {"stages": kinds[kind], "saved_by_sharing": wanted[kind] - kinds[kind], "done": sum(i in done for i in stages if stages[i].kind == kind)}
            for kind in kinds
        },
        "jobs": [{"stages": list(job.stages), "needs": sorted(job.needs)} for job in jobs],
        "cluster": {**cluster.model_dump(), "slots": cluster.nodes * cluster.slots_per_node},
    }


def text(name: str, plan: dict[str, Any]) -> str:
    """What `p2p-dist plan` prints."""
    counts, runs = plan["counts"], plan["runs"]
    done = sum(run["done"] for run in runs)
    words = {"data": "data builds", "train": "trainings", "score": "scorings", "edit": "edits", "eval": "evaluations"}
    parts = [
        f"{counts[kind]['stages']} {word} ({counts[kind]['saved_by_sharing']} more shared, {counts[kind]['done']} done)"
        for kind, word in words.items()
        if kind in counts
    ]
    cluster = plan["cluster"]
    hardware = f"{cluster['nodes']} x {cluster['gpus_per_node']} GPUs, {cluster['cpus_per_node']} cores"
    lines = [
        f"{name}: {len(runs)} runs, {done} of {len(runs)} done",
        f"  {', '.join(parts)}",
        f"  {len(plan['jobs'])} jobs on {cluster['name']} ({hardware}): {cluster['slots']} at a time",
        "",
    ]
    shown = runs if len(runs) <= _SHOWN else runs[: _SHOWN - 1]
    for run in shown:
        cell = "  ".join(f"{label:24}" if axis == "model" else f"{label:16}" for axis, label in run["cell"].items())
        lines.append(f"  {'done   ' if run['done'] else 'missing'} {cell} train {run['train']}  eval {run['eval']}")
    if len(shown) < len(runs):
        lines.append(f"  ... and {len(runs) - len(shown)} more; --json has them all")
    return "\n".join(lines)
