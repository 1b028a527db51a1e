"""A plan in words and as facts."""

import json
from collections import Counter
from collections.abc import Collection, Mapping
from typing import Any

from p2p_dist.config.expand import Expansion
from p2p_dist.config.graph import Graph
from p2p_dist.config.identity import canonical
from p2p_dist.planning.durations import TOKENS_PER_ROW
from p2p_dist.planning.nodes import Nodes
from p2p_dist.planning.placement import Misfit
from p2p_dist.planning.plan import Plan
from p2p_dist.planning.replay import replay

_SHOWN = 40
_TERMS = ("base", "adapter", "optimizer", "activations", "logits", "gather", "runtime")


def facts(expansion: Expansion, done: Collection[str], plan: Plan, names: Mapping[str, str]) -> dict[str, Any]:
    """What `--json` prints. `names` are the models' names by their canonical identity."""
    stages = expansion.graph.stages
    uses = Counter(id_ for run in expansion.runs for id_ in run.stages)
    kinds = Counter(stage.kind for stage in stages.values())
    wanted = Counter(stages[id_].kind for run in expansion.runs for id_ in run.stages)
    finished = Counter(stages[id_].kind for id_ in done)
    cluster = plan.rates.cluster
    return {
        "runs": [{**run.to_json(), "done": set(run.stages) <= set(done)} for run in expansion.runs],
        "stages": [
            {"id": id_, "kind": stage.kind, "done": id_ in done, "runs": uses[id_], "reads": dict(stage.reads)}
            for id_, stage in stages.items()
        ],
        "counts": {
            kind: {"stages": kinds[kind], "saved_by_sharing": wanted[kind] - kinds[kind], "done": finished[kind]}
            for kind in kinds
        },
        "jobs": [
            {"stages": list(job.stages), "needs": sorted(job.needs), "seconds": round(job.cost, 1)} for job in plan.jobs
        ],
        "models": _models(plan, names),
        "time": _time(plan, expansion.graph),
        "cluster": {**cluster.model_dump(), "slots": cluster.nodes * cluster.slots_per_node},
    }


def _models(plan: Plan, names: Mapping[str, str]) -> list[dict[str, Any]]:
    """Every training setting: its model, how many jobs are left, and where they go or why they cannot."""
    jobs = Counter(plan.settings.values())
    found = []
    for key, fit in plan.fits.items():
        model = canonical(json.loads(key)[0])
        where = (
            {"misfit": fit.reason, "nearest": fit.nearest} if isinstance(fit, Misfit) else {"placement": fit.to_json()}
        )
        found.append({"model": names[model], "jobs": jobs[key], **where, "measured": _measured(plan, model)})
    return found


def _measured(plan: Plan, model: str) -> dict[str, Any]:
    """What the times of a model rest on: finished stages by kind, measured over assumed time, and the devices they ran
    on."""
    rates = {kind: rate for (kind, of), rate in plan.durations.rates.items() if of == model}
    return {
        kind: {"stages": rate.stages, "over_assumed": round(rate.factor, 3), "devices": list(rate.devices)}
        for kind, rate in sorted(rates.items())
    }


def _time(plan: Plan, graph: Graph) -> dict[str, Any]:
    """Of the jobs that fit, in the scheduler's order, when nothing fails."""
    cluster = plan.rates.cluster
    _, time = replay(plan, graph, Nodes(cluster.nodes, cluster.slots_per_node))
    return {
        "device_hours": round(time.used / 3600, 4),
        "makespan_hours": round(time.makespan / 3600, 4),
        "bound_hours": round(time.bound / 3600, 4),
        "stages": plan.durations.origins(graph, (id_ for job in plan.jobs for id_ in job.stages)),
        "elsewhere": plan.durations.elsewhere,
        "unread": list(plan.durations.unread),
        "assumed": {
            "tflops_per_device": round(plan.rates.operations / 1e12, 2),
            "tokens_per_row": TOKENS_PER_ROW,
            "start_seconds_per_job": plan.rates.start_seconds,
            "device": "GPU" if cluster.gpus_per_node else "worker",
        },
    }


def text(name: str, plan: dict[str, Any]) -> str:
    """What `p2p-dist plan` prints."""
    counts, runs, cluster = plan["counts"], plan["runs"], plan["cluster"]
    done = sum(run["done"] for run in runs)
    words = {"data": "data builds", "train": "trainings", "score": "scorings", "edit": "edits", "eval": "evaluations"}
    parts = [
        f"{counts[kind]['stages']} {word} ({counts[kind]['saved_by_sharing']} more shared, {counts[kind]['done']} done)"
        for kind, word in words.items()
        if kind in counts
    ]
    hardware = f"{cluster['nodes']} x {cluster['gpus_per_node']} GPUs, {cluster['cpus_per_node']} cores"
    lines = [
        f"{name}: {len(runs)} runs, {done} of {len(runs)} done",
        f"  {', '.join(parts)}",
        f"  {len(plan['jobs'])} jobs on {cluster['name']} ({hardware}): {cluster['slots']} at a time",
        *(_time_lines(plan["time"]) if plan["jobs"] else ["  nothing is left to do"]),
        "",
        *_model_lines(plan["models"]),
        "",
    ]
    shown = runs if len(runs) <= _SHOWN else runs[: _SHOWN - 1]
    for run in shown:
        cell = "  ".join(f"{label:24}" if axis == "model" else f"{label:16}" for axis, label in run["cell"].items())
        lines.append(f"  {'done   ' if run['done'] else 'missing'} {cell} train {run['train']}  eval {run['eval']}")
    if len(shown) < len(runs):
        lines.append(f"  ... and {len(runs) - len(shown)} more; --json has them all")
    return "\n".join(lines)


def _time_lines(time: dict[str, Any]) -> list[str]:
    assumed, stages = time["assumed"], time["stages"]
    device = assumed["device"]
    lines = [
        f"  about {hours_of(time['device_hours'])} of {device} time, {hours_of(time['makespan_hours'])} longest first "
        f"(no order takes less than {hours_of(time['bound_hours'])})",
        f"  times: {stages_of(stages)}; assumed means {assumed['tflops_per_device']} TFLOP/s per {device}, "
        f"{assumed['tokens_per_row']} tokens per row, {assumed['start_seconds_per_job']:.0f} s to start a job",
    ]
    if time["elsewhere"]:
        lines.append(f"  {time['elsewhere']} finished stages say nothing here: they did not run on a {device}")
    return [*lines, *(f"  not read: {path}" for path in time["unread"])]


def stages_of(origins: dict[str, int]) -> str:
    """On what the times of trainings, evaluations and scorings rest."""
    words = {"recorded": "recorded", "rate": "from finished runs of the same model", "assumed": "assumed"}
    return ", ".join(f"{count} {words[origin]}" for origin, count in origins.items() if count)


def hours_of(hours: float) -> str:
    """A time in hours, in minutes below one, in seconds below two of these."""
    if hours >= 1:
        return f"{hours:.1f} h"
    return f"{hours * 60:.0f} min" if hours * 60 >= 2 else f"{hours * 3600:.0f} s"


def _model_lines(models: list[dict[str, Any]]) -> list[str]:
    """A line per model with its placement, how many finished runs its times rest on and memory in GiB, or why it can
    never run."""
    head = f"  {'model':26}{'GPUs':>5}{'ZeRO':>5}  {'offload':9}{'batch':>9}{'cohort':>7}  {'times from':12}"
    lines = [f"{head} GiB per device: {'total':>6} = " + " + ".join(_TERMS)]
    for model in models:
        if "misfit" in model:
            lines.append(f"  {model['model']:26}never: {model['misfit']}. Would fit: {model['nearest']}")
            continue
        place = model["placement"]
        batch = f"{place['micro_batch']} x {place['accumulation']}"
        row = (
            f"  {model['model']:26}{place['ranks']:>5}{place['zero']:>5}  {place['offload']:9}{batch:>9}"
            f"{place['cohort']:>7}  {_basis(model['measured']):12}"
        )
        memory = place["memory"]
        if memory:
            row += f"{'':17}{memory['total']:>6.1f} = " + " + ".join(f"{memory[term]:.2f}" for term in _TERMS)
        lines.append(row if memory else f"{row}   shape unknown: no estimate")
        if place["gradient_checkpointing"]:
            lines.append(f"{'':28}gradient checkpointing: trainings take about half as long again as said")
    return lines


def _basis(measured: dict[str, Any]) -> str:
    """How many finished runs the times of a model rest on."""
    trained = measured.get("train", {"stages": 0})["stages"]
    return f"{trained} runs" if trained > 1 else "1 run" if trained else "assumed"
