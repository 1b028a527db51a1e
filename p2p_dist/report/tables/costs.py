"""What it took: clean rows, models and time per defense, and every stage with what it used."""

from collections.abc import Iterable, Mapping
from typing import Any

from p2p_dist.report import looks
from p2p_dist.report.evidence import Evidence
from p2p_dist.report.grid import Cell, Head, Table
from p2p_dist.report.groups import Group
from p2p_dist.results.collect import StageState


def build(evidence: Evidence) -> list[Table]:
    """Cost by defense, then by stage."""
    return [table for table in (_by_defense(evidence), _by_stage(evidence)) if table.rows]


def _by_defense(evidence: Evidence) -> Table:
    defenses: dict[str, list[Group]] = {}
    for group in evidence.groups:
        defenses.setdefault(group.defense, []).append(group)
    head = [
        Head("defense"),
        Head("clean rows", "training rows that the defense knows to be clean (rows.reserve), when it reads them"),
        Head("benign rows", "rows that the defense adds or rewrites"),
        Head("models", "trainings per run"),
        Head("seconds", "of all stages of one run, shared ones included, mean over runs"),
        Head("GPU-seconds", "the same on GPUs"),
        Head("tokens", "trained on, mean over runs"),
    ]
    return Table("cost", "What each defense costs", head, [_defense_row(evidence, name, groups) for name, groups in defenses.items()])


def _defense_row(evidence: Evidence, name: str, groups: list[Group]) -> list[Cell]:
    runs = [run for group in groups for run in group.runs if run.rates]
    counts = [run.counts for run in runs if run.counts]
    own = [[stage for stage in run.stages if stage.id != run.ids.get("floor") and stage.id in _of_run(evidence, run.ids.get("eval"))] for run in runs]
    reserved = [found for run in runs if (found := _reserved(evidence, run.ids.get("eval"))) is not None]
    return [
        Cell(looks.title_of(name)),
        _number(reserved),
        _number([sum(facts.get("train", {}).get("injected", {}).values()) for facts in counts] if name != "none" else []),
        _number([sum(stage.kind == "train" for stage in stages) for stages in own]),
        *(_number([_total(stages, key) for stages in own if any(key in stage.cost for stage in stages)]) for key in ("seconds", "gpu_seconds", "tokens")),
    ]


def _of_run(evidence: Evidence, end: str | None) -> set[str]:
    """The stages that one evaluation needs, itself included."""
    found: set[str] = set()
    waiting = [end] if end else []
    while waiting:
        id_ = waiting.pop()
        if id_ not in found and id_ in evidence.specs:
            found.add(id_)
            waiting += evidence.specs[id_]["reads"].values()
    return found


def _reserved(evidence: Evidence, end: str | None) -> int | None:
    """Rows that a defense takes as clean, if it says that it reads the reserved ones."""
    specs = [evidence.specs[id_]["spec"] for id_ in _of_run(evidence, end)]
    reads = any(spec.get("step") == "defend" and spec["defense"].get("benign_source") == "clean_reserved" for spec in specs)
    rows = [spec["rows"]["reserve"] for spec in specs if "rows" in spec]
    return rows[0] if reads and rows else None


def _total(stages: Iterable[StageState], key: str) -> float:
    """Over the stages of one run; a cohort's time is divided among its runs."""
    return sum(share(stage.cost, key) or 0.0 for stage in stages)


def share(cost: Mapping[str, Any], key: str) -> float | None:
    """One run's part of what a stage used: a cohort reports the time of all its runs together."""
    value = cost.get(key)
    if value is None:
        return None
    return float(value) / int(cost.get("cohort", 1)) if key in ("seconds", "gpu_seconds") else float(value)


def _number(values: list[Any]) -> Cell:
    if not values:
        return Cell("")
    mean = sum(values) / len(values)
    return Cell(f"{mean:,.0f}", sort=mean)


def _by_stage(evidence: Evidence) -> Table:
    stages = {stage.id: stage for run in evidence.found.runs for stage in run.stages}
    head = [
        Head("stage"),
        Head("id"),
        Head("state"),
        Head("attempts"),
        Head("seconds"),
        Head("rows"),
        Head("tokens"),
        Head("peak MiB"),
        Head("precision"),
        Head("host"),
    ]
    rows = []
    for stage in stages.values():
        cost = stage.cost
        numbers = [_plain(len(stage.attempts) or None), *(_plain(cost.get(key)) for key in ("seconds", "rows", "tokens", "peak_memory_mib"))]
        words = [Cell(str(cost.get(key, ""))) for key in ("dtype", "host")]
        rows.append([Cell(evidence.titles.get(stage.id, stage.id)), Cell(stage.id), Cell(stage.status), *numbers, *words])
    note = "Trainings of one cohort show the time of the whole cohort."
    return Table("stages", "Every stage", head, rows, lead=3, note=note)


def _plain(value: Any) -> Cell:
    if value is None:
        return Cell("")
    return Cell(f"{value:,.1f}" if isinstance(value, float) else f"{value:,}", sort=float(value))
