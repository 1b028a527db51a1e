"""A plan as text and as JSON."""

import json
import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from p2p_dist.config.expand import Expansion
from p2p_dist.config.graph import Graph
from p2p_dist.config.identity import canonical
from p2p_dist.config.plugin_files import left_out_lines
from p2p_dist.config.study import TrainSpec
from p2p_dist.planning.memory import GIB, checkpoint_bytes
from p2p_dist.planning.nodes import Nodes
from p2p_dist.planning.placement import Misfit, weight_bytes
from p2p_dist.planning.plan import Plan
from p2p_dist.planning.replay import Overheads, replay
from p2p_dist.planning.row_tokens import TRAIN_ROWS
from p2p_dist.report import plan_defenses, plan_scores
from p2p_dist.report.text_columns import WIDTH, columns, counted, folded_columns

_SHOWN = 40
_NO_BREAK = "\u00a0"
_NAME_WIDTH, _LONGEST_NAME = 22, 30
_TERMS = ("base", "adapter", "gradients", "optimizer", "activations", "logits", "gather", "runtime", "images", "cache")


def to_json(expansion: Expansion, plan: Plan, names: Mapping[str, str]) -> dict[str, Any]:
    """Content of `p2p-dist plan --json`. `names` are the models' names by their canonical identity."""
    stages, done = expansion.graph.stages, frozenset(plan.done)
    uses = Counter(id_ for run in expansion.runs for id_ in run.stages)
    kinds = Counter(stage.kind for stage in stages.values())
    needed = Counter(stages[id_].kind for run in expansion.runs for id_ in run.stages)
    finished = Counter(stages[id_].kind for id_ in done)
    cluster = plan.rates.cluster
    return {
        "runs": [{**run.to_json(), "done": done.issuperset(run.stages)} for run in expansion.runs],
        "left_out": [one.to_json() for one in expansion.left_out],
        "stages": [
            {"id": id_, "kind": stage.kind, "done": id_ in done, "runs": uses[id_], "reads": dict(stage.reads)}
            for id_, stage in stages.items()
        ],
        "counts": {
            kind: {"stages": kinds[kind], "saved_by_sharing": needed[kind] - kinds[kind], "done": finished[kind]}
            for kind in kinds
        },
        "jobs": [
            {"stages": list(job.stages), "needs": sorted(job.needs), "seconds": round(job.cost, 1)} for job in plan.jobs
        ],
        "models": _models(plan, names),
        "scores": plan_scores.to_json(plan, names),
        "defenses": plan_defenses.by_defense(expansion, plan),
        "time": _time(plan, expansion.graph),
        "cluster": cluster.to_json(),
    }


def _models(plan: Plan, names: Mapping[str, str]) -> list[dict[str, Any]]:
    """Every training setting: its model, the number of jobs left, and their placement or why there is none."""
    jobs = Counter(plan.settings.get(job.lead) for job in plan.jobs)
    models = []
    for key, fit in plan_scores.of_trainings(plan):
        model = canonical(json.loads(key)[0])
        where = (
            {"misfit": fit.reason, "nearest": fit.nearest} if isinstance(fit, Misfit) else {"placement": fit.to_json()}
        )
        disk = _disk(plan, model, json.loads(key)[1])
        models.append({"model": names[model], "jobs": jobs[key], **where, **disk, "measured": _measured(plan, model)})
    return models


def _disk(plan: Plan, model: str, train: Mapping[str, Any] | None) -> dict[str, Any]:
    """Disk space of a training in all weights: its checkpoints, of which two are kept while the next is written, and
    the model. Adapters take next to none."""
    shape = plan.rates.shapes.get(model)
    if shape is None or train is None or train.get("method") != "full":
        return {}
    model_bytes = shape.parameters * weight_bytes(TrainSpec.model_validate(train), plan.rates.cluster)
    checkpoints = 3 * checkpoint_bytes(shape.parameters)
    return {"disk_gib": {"checkpoints": round(checkpoints / GIB, 2), "model": round(model_bytes / GIB, 2)}}


def _measured(plan: Plan, model: str) -> dict[str, Any]:
    """Basis of a model's times: finished stages by kind, measured over assumed time, and the devices they ran
    on."""
    rates = {kind: rate for (kind, of), rate in plan.durations.rates.items() if of == model}
    return {
        kind: {"stages": rate.stages, "over_assumed": round(rate.factor, 3), "devices": list(rate.devices)}
        for kind, rate in sorted(rates.items())
    }


def _time(plan: Plan, graph: Graph) -> dict[str, Any]:
    """Times of the jobs that fit, in the scheduler's order, without failures."""
    cluster = plan.rates.cluster
    _, time = replay(plan, graph, Nodes(cluster.nodes, cluster.slots_per_node), Overheads())
    return {
        "device_hours": round(time.used / 3600, 4),
        "makespan_hours": round(time.makespan / 3600, 4),
        "bound_hours": round(time.bound / 3600, 4),
        "stages": plan.durations.origins(graph, (id_ for job in plan.jobs for id_ in job.stages)),
        "elsewhere": plan.durations.elsewhere,
        "unread": list(plan.durations.unread),
        "assumed": {
            "tflops_per_device": round(plan.rates.operations / 1e12, 2),
            "tokens_per_row": plan.row_tokens(graph),
            "train_rows": TRAIN_ROWS if plan.rates.guesses_rows(graph) else None,
            "start_seconds_per_job": plan.rates.start_seconds,
            "device": "GPU" if cluster.gpus_per_node else "worker",
        },
    }


def text(name: str, plan: dict[str, Any]) -> str:
    """Text of `p2p-dist plan`, in lines of at most 80 columns."""
    runs, cluster = plan["runs"], plan["cluster"]
    done = sum(run["done"] for run in runs)
    hardware = f"{cluster['nodes']} x {cluster['gpus_per_node']} GPUs, {cluster['cpus_per_node']} cores"
    jobs = f"{counted(len(plan['jobs']), 'job')} on {cluster['name']} ({hardware}), {cluster['slots_in_all']} at a time"
    return "\n".join(
        [
            f"{name}: {counted(len(runs), 'run')}, {done} of {len(runs)} done",
            *_left_out_lines(plan["left_out"]),
            *_stage_lines(plan["counts"]),
            *wrapped(jobs),
            *(_time_lines(plan["time"]) if plan["jobs"] else ["  nothing is left to do"]),
            "",
            *_model_lines(plan["models"]),
            *(line for said in plan_scores.lines(plan["scores"], cluster) for line in wrapped(said)),
            *plan_defenses.lines(plan["defenses"]),
            *_prompt_lines(plan.get("prompts", [])),
            *_row_lines(plan.get("rows", [])),
            *_change_lines(plan.get("changes", {})),
            *_mode_lines(plan.get("row_modes", {})),
            "",
            *_run_lines(runs),
        ]
    )


def _left_out_lines(cells: Sequence[Mapping[str, Any]]) -> list[str]:
    """The cells that read a missing file, by reason."""
    return [folded for line in left_out_lines(one["reason"] for one in cells) for folded in wrapped(line)]


def _prompt_lines(prompts: Sequence[Mapping[str, str]]) -> list[str]:
    """The chat prompt of every model and defense around a text, as it is trained on."""
    return [
        line
        for one in prompts
        for line in wrapped(f"prompt of {one['model']}, defense {one['defense']}: {json.dumps(one['prompt'])}")
    ]


def _row_lines(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """A note on every task whose rows could not be counted."""
    return [
        line
        for task in rows
        if "unknown" in task
        for line in wrapped(f"not checked: rows per class of {task['task']}: {task['unknown']}")
    ]


def _change_lines(changes: Mapping[str, Any]) -> list[str]:
    """A note on runs of other settings in the run folder."""
    if not changes.get("runs_removed"):
        return []
    settings = "; ".join(changes["settings"])
    return wrapped(f"other settings than in the run folder ({settings}): `run` asks for --replace or another name")


def wrapped(line: str, indent: str = "  ") -> list[str]:
    """A line of text folded to 80 columns; its further lines stand two columns further in."""
    further = f"{indent}  "
    lines = textwrap.wrap(line, WIDTH, initial_indent=indent, subsequent_indent=further, break_on_hyphens=False)
    return [folded.replace(_NO_BREAK, " ") for folded in lines]


def _stage_lines(counts: Mapping[str, Mapping[str, int]]) -> list[str]:
    """Number of stages of every kind, how many further ones sharing saves, and how many are done."""
    nouns = {"data": "data build", "train": "training", "score": "scoring", "edit": "edit", "eval": "evaluation"}
    lines = []
    for kind, noun in nouns.items():
        if count := counts.get(kind):
            of_kind = noun if count["stages"] == 1 else f"{noun}s"
            shared, done = f"{count['saved_by_sharing']:>6} more shared", f"{count['done']:>7} done"
            lines.append(f"  {count['stages']:>5} {of_kind:12}{shared}{done}")
    return lines


def _mode_lines(modes: Mapping[str, str]) -> list[str]:
    """The models whose rows may not be packed."""
    return [
        line
        for name, mode in modes.items()
        if mode != "packed"
        for line in wrapped(f"rows of {name}: {mode}", "      ")
    ]


def _run_lines(runs: Sequence[Mapping[str, Any]]) -> list[str]:
    """A line for every run: the axes on which runs differ and, if there is room, the ids of its adapter and result."""
    differing = [axis for axis in runs[0]["cell"] if len({run["cell"][axis] for run in runs}) > 1]
    shared = [f"{axis} {label}" for axis, label in runs[0]["cell"].items() if axis not in differing]
    shown = runs if len(runs) <= _SHOWN else runs[: _SHOWN - 1]
    table = [["state", *differing, "train/", "eval/"]]
    for run in shown:
        labels = [run["cell"][axis] for axis in differing]
        table.append(["done" if run["done"] else "missing", *labels, run["train"], run["eval"]])
    labels_alone = [row[:-2] for row in table]
    lines = (
        columns(table)
        or columns(labels_alone)
        or folded_columns(labels_alone)
        or [line for row in labels_alone for line in wrapped("  ".join(row))]
    )
    before = wrapped(f"in all runs: {', '.join(shared)}") if shared else []
    after = [f"  ... and {len(runs) - len(shown)} more; --json has them all"] if len(shown) < len(runs) else []
    return [*before, *lines, *after]


def _time_lines(time: dict[str, Any]) -> list[str]:
    assumed, stages = time["assumed"], time["stages"]
    device = assumed["device"]
    tokens = " to ".join(map(str, dict.fromkeys(assumed["tokens_per_row"])))
    rows = f"{assumed['train_rows']:,} training rows where no number is known, " if assumed["train_rows"] else ""
    lines = [
        *wrapped(
            f"about {hours_of(time['device_hours'])} of {device} time, done in {hours_of(time['makespan_hours'])} "
            f"(at best {hours_of(time['bound_hours'])})"
        ),
        *wrapped(
            f"times: {stages_of(stages)}; assumed: {assumed['tflops_per_device']} TFLOP/s per {device}, "
            f"{tokens} tokens per row, {rows}{assumed['start_seconds_per_job']:.0f} s to start a job"
        ),
    ]
    if time["elsewhere"]:
        lines.append(f"  {time['elsewhere']} finished stages say nothing here: they did not run on a {device}")
    return [*lines, *(f"  not read: {path}" for path in time["unread"])]


def stages_of(origins: dict[str, int]) -> str:
    """Basis of the times of trainings, evaluations and scorings."""
    words = {"recorded": "recorded", "rate": "from finished runs of the same model", "assumed": "assumed"}
    return ", ".join(f"{count} {words[origin]}" for origin, count in origins.items() if count)


def hours_of(hours: float) -> str:
    """A time in hours, in minutes below one, in seconds below two of these."""
    if hours >= 1:
        return f"{hours:.1f} h"
    return f"{hours * 60:.0f} min" if hours * 60 >= 2 else f"{hours * 3600:.0f} s"


def _model_lines(models: list[dict[str, Any]]) -> list[str]:
    """Every model with its placement, how many finished runs its times rest on and its memory in GiB, or why it can
    never run; equal lines of several training settings once."""
    longest = max(_NAME_WIDTH, *(len(model["model"]) for model in models))
    width = longest if longest <= _LONGEST_NAME else _NAME_WIDTH
    lines = [f"  {'model':{width}}{'GPUs':>5}{'ZeRO':>5}  {'offload':9}{'batch':>8}{'cohort':>7}  times from"]
    blocks = dict.fromkeys(tuple(_model_block(model, width)) for model in models)
    return [*lines, *(line for block in blocks for line in block)]


def _model_block(model: Mapping[str, Any], width: int) -> list[str]:
    """Lines of one training setting of a model, whose name has a column of `width` characters."""
    name = model["model"]
    if "misfit" in model:
        return wrapped(f"{name} never fits: {model['misfit']}. Would fit: {model['nearest']}")
    place = model["placement"]
    batch = f"{place['micro_batch']} x {place['accumulation']}"
    numbers = f"{place['ranks']:>5}{place['zero']:>5}  {place['offload']:9}{batch:>8}{place['cohort']:>7}"
    before, shown = ([f"  {name}"], "") if len(name) > width else ([], name)
    lines = [*before, f"  {shown:{width}}{numbers}  {_basis(model['measured'])}"]
    lines += wrapped(_memory(place["memory"]), "      ")
    if disk := model.get("disk_gib"):
        lines += wrapped(
            f"all weights are trained: up to {disk['checkpoints']:.1f} GiB of disk for checkpoints, "
            f"{disk['model']:.1f} GiB for each model that is kept",
            "      ",
        )
    if place["gradient_checkpointing"]:
        lines.append("      gradient checkpointing: trainings take about 1.5 times as long")
    return lines


def _memory(memory: Mapping[str, float] | None) -> str:
    """Memory of a device by what takes it; what rounds to nothing is left out."""
    if not memory:
        return "memory is not estimated: the shape of the model is unknown"
    terms = [f"{memory[term]:.2f}{_NO_BREAK}{term}" for term in _TERMS if memory[term] >= 0.005]
    return f"{memory['total']:.1f} GiB per device: {' + '.join(terms)}"


def _basis(measured: dict[str, Any]) -> str:
    """Number of finished runs that the times of a model rest on."""
    trained = measured.get("train", {"stages": 0})["stages"]
    return f"{trained} runs" if trained > 1 else "1 run" if trained else "assumed"
