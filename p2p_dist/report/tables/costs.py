"""Costs: clean rows, models and time per defense, and the time, memory and energy of every stage."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from p2p_dist.report import fairness
from p2p_dist.report.groups import Group
from p2p_dist.report.plots import style
from p2p_dist.report.study_data import StudyData
from p2p_dist.report.table import Cell, Head, Table
from p2p_dist.results.collect import RunState, StageState


def build(study_data: StudyData) -> list[Table]:
    """Cost by defense, then by stage."""
    return [table for table in (_by_defense(study_data), _by_stage(study_data)) if table.rows]


def _by_defense(study_data: StudyData) -> Table:
    defenses: dict[str, list[Group]] = {}
    for group in study_data.groups:
        defenses.setdefault(group.defense, []).append(group)
    head = [
        Head("defense"),
        *fairness.NEEDS,
        Head("benign rows", "rows that the defense adds or rewrites, mean over runs"),
        Head("models", "trainings per run"),
        Head("seconds", "of all stages of one run, shared ones included, mean over runs"),
        Head("GPU-seconds", "the same on GPUs"),
        Head("tokens", "trained on, mean over runs"),
        Head("joules", "energy of the devices as they count it, mean over runs; what else ran on them is in it"),
    ]
    rows = [_defense_row(study_data, name, groups) for name, groups in defenses.items()]
    return Table("cost", "What each defense takes", head, rows, lead=1 + len(fairness.NEEDS))


def _defense_row(study_data: StudyData, name: str, groups: list[Group]) -> list[Cell]:
    runs = [run for group in groups for run in group.runs if run.rates]
    counts = [run.counts for run in runs if run.counts]
    stages_by_run = [_own_stages(study_data, run) for run in runs]
    return [
        Cell(style.title_of(name)),
        *map(Cell, fairness.needs(groups[0].needs)),
        _number(
            [sum(origins.get("train", {}).get("injected", {}).values()) for origins in counts] if name != "none" else []
        ),
        _number([sum(stage.kind == "train" for stage in stages) for stages in stages_by_run]),
        *(_number(_totals(stages_by_run, key)) for key in ("seconds", "gpu_seconds", "tokens")),
        _number([joules for stages in stages_by_run if (joules := _joules(stages)) is not None]),
    ]


def seconds_by_defense(study_data: StudyData, groups: Iterable[Group]) -> tuple[str, dict[str, str]]:
    """Unit and time of a run by defense (mean over runs) for the foot of a table of rates: GPU-seconds where GPUs were
    used, else seconds."""
    stages_by_defense: dict[str, list[list[StageState]]] = {}
    for group in groups:
        stages_by_defense.setdefault(group.defense, []).extend(
            _own_stages(study_data, run) for run in group.runs if run.rates
        )
    on_gpu = any(total for stages in stages_by_defense.values() for total in _totals(stages, "gpu_seconds"))
    key, unit = ("gpu_seconds", "GPU-seconds") if on_gpu else ("seconds", "seconds")
    return unit, {name: _number(_totals(stages, key)).text for name, stages in stages_by_defense.items()}


def _own_stages(study_data: StudyData, run: RunState) -> list[StageState]:
    """The stages that a run's evaluation needs; the evaluation of the clean-model baseline is another run's."""
    needed = _of_run(study_data, run.ids.get("eval"))
    return [stage for stage in run.stages if stage.id != run.ids.get("floor") and stage.id in needed]


def _totals(stages_by_run: Iterable[Sequence[StageState]], key: str) -> list[float]:
    """A total for each run of which some stage says it."""
    return [_total(stages, key) for stages in stages_by_run if any(key in stage.cost for stage in stages)]


def _joules(stages: Iterable[StageState]) -> float | None:
    """Of one run; None when a stage that held a model does not say."""
    known = [share(stage.cost, "energy_joules") for stage in stages if stage.kind in ("train", "score", "eval")]
    return sum(joules for joules in known if joules is not None) if known and None not in known else None


def _of_run(study_data: StudyData, end: str | None) -> set[str]:
    """The stages that one evaluation needs, itself included."""
    ids: set[str] = set()
    waiting = [end] if end else []
    while waiting:
        id_ = waiting.pop()
        if id_ not in ids and id_ in study_data.specs:
            ids.add(id_)
            waiting += study_data.specs[id_]["reads"].values()
    return ids


def _total(stages: Iterable[StageState], key: str) -> float:
    """Over the stages of one run; a cohort's time is divided among its runs."""
    return sum(share(stage.cost, key) or 0.0 for stage in stages)


def share(cost: Mapping[str, Any], key: str) -> float | None:
    """One run's part of what a stage used: a cohort reports the time of all its runs together."""
    value = cost.get(key)
    if value is None:
        return None
    return (
        float(value) / int(cost.get("cohort", 1))
        if key in ("seconds", "gpu_seconds", "energy_joules")
        else float(value)
    )


def _number(values: list[Any]) -> Cell:
    if not values:
        return Cell("")
    mean = sum(values) / len(values)
    return Cell(f"{mean:,.0f}", sort=mean)


def _by_stage(study_data: StudyData) -> Table:
    stages = {stage.id: stage for run in study_data.collected.runs for stage in run.stages}
    head = [
        Head("stage"),
        Head("id", printed=False),
        Head("state", printed=False),
        Head("attempts", printed=False),
        Head("seconds"),
        Head("rows"),
        Head("tokens"),
        Head("peak MiB"),
        Head("joules"),
        Head("precision"),
        Head("host", printed=False),
    ]
    rows = []
    for stage in stages.values():
        cost = stage.cost
        numbers = [
            _plain(len(stage.attempts) or None),
            *(_plain(cost.get(key)) for key in ("seconds", "rows", "tokens", "peak_memory_mib", "energy_joules")),
        ]
        words = [Cell(str(cost.get(key, ""))) for key in ("dtype", "host")]
        rows.append(
            [Cell(study_data.titles.get(stage.id, stage.id)), Cell(stage.id), Cell(stage.status), *numbers, *words]
        )
    note = "Trainings of one cohort show the time of the whole cohort."
    return Table("stages", "Every stage", head, rows, lead=3, note=note)


def _plain(value: Any) -> Cell:
    if value is None:
        return Cell("")
    return Cell(f"{value:,.1f}" if isinstance(value, float) else f"{value:,}", sort=float(value))
