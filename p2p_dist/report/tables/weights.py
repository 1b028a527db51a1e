"""Scan of the adapters' weights: the distance of each to the study's clean adapters (`results.weight_features`)."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from p2p_dist.report.plots import style
from p2p_dist.report.study_data import StudyData
from p2p_dist.report.table import Cell, Head, Table
from p2p_dist.results import records
from p2p_dist.results.collect import RunState
from p2p_dist.results.weight_features import LEAST_CLEAN, Distance, WeightFeatures, distance

_NOTE = (
    "Nothing is asked of the models: statistics of each adapter's updates are compared with those of clean adapters "
    "(no attack, no defense) of other seeds, of the same task, base, settings and steps. Distance: mean deviation of "
    "the statistics from the clean mean, in standard deviations, each at most 10. Norms: spread of the standardised "
    "norms over the matrices. AUC: share of pairs of an adapter and a clean one in which the adapter is farther; 0.5 "
    "tells nothing. Every seed is one adapter, so few seeds make a rough AUC."
)
Group = tuple[str, str, str, str]
"""Task, model, attack and defense."""


@dataclass(frozen=True)
class _Adapter:
    """An adapter with the conditions that it shares with those it may be compared with."""

    group: Group
    seed: str
    conditions: str
    features: WeightFeatures

    @property
    def is_clean(self) -> bool:
        return self.group[2:] == ("none", "none")


def build(study_data: StudyData) -> list[Table]:
    """One table, or none with fewer than three clean adapters of one kind."""
    adapters = _adapters(study_data)
    distances: dict[Group, list[Distance]] = {}
    conditions: dict[Group, str] = {}
    for adapter in adapters:
        if (measured := distance_to_clean(adapter, adapters)) is not None:
            distances.setdefault(adapter.group, []).append(measured)
            conditions[adapter.group] = adapter.conditions
    clean = {conditions[group]: values for group, values in distances.items() if group[2:] == ("none", "none")}
    head = [
        *map(Head, ("task", "model", "attack", "defense")),
        Head("adapters", "trainings with other seeds"),
        Head("distance", "mean over the adapters; small print: from the least to the largest"),
        Head("AUC", "of the distance against that of clean adapters"),
        Head("norms", "mean over the adapters; small print: from the least to the largest"),
        Head("AUC of norms", "of the norms' spread against that of clean adapters"),
    ]
    rows = [_row(group, values, clean[conditions[group]]) for group, values in distances.items()]
    return [Table("weights", "Scan of the adapters' weights", head, rows, lead=4, note=_NOTE)] if rows else []


def distance_to_clean(adapter: _Adapter, adapters: Sequence[_Adapter]) -> Distance | None:
    """Distance to the clean adapters without that of its own seed, or without one where none has it, so that all are
    compared with as many; None with fewer than three of them."""
    clean = [one for one in adapters if one.is_clean and one.conditions == adapter.conditions]
    if len(clean) < LEAST_CLEAN:
        return None
    left_out = next((one for one in clean if one.seed == adapter.seed), clean[0])
    return distance(adapter.features, [one.features for one in clean if one is not left_out])


def _adapters(study_data: StudyData) -> list[_Adapter]:
    """Every adapter of the study that was trained from a fresh start, once; those without statistics are left out."""
    adapters: dict[str, _Adapter] = {}
    for run in study_data.collected.runs:
        id_ = run.ids.get("train") or ""
        spec = study_data.specs.get(id_)
        if spec is None or id_ in adapters or {"start", "merged"} & spec["reads"].keys():
            continue
        content = records.read(
            study_data.folder.at("train", id_).weights, records.Weights, study_data.collected.problems
        )
        if content:
            features = WeightFeatures(content["modules"], content["norms"])
            group = (run.cell["task"], run.cell["model"], run.cell["attack"], run.cell["defense"])
            adapters[id_] = _Adapter(group, run.cell["seed"], _conditions(run, id_, spec["spec"]), features)
    return list(adapters.values())


def _conditions(run: RunState, id_: str, spec: Mapping[str, object]) -> str:
    """Task, base, settings and steps of a training."""
    steps = next((stage.cost.get("steps") for stage in run.stages if stage.id == id_), None)
    settings = {key: value for key, value in spec.items() if key != "seed"}
    return json.dumps([run.cell["task"], settings, steps], sort_keys=True)


def _row(group: Group, values: Sequence[Distance], clean: Sequence[Distance]) -> list[Cell]:
    task, model, attack, defense = group
    is_clean = group[2:] == ("none", "none")
    cells = []
    for numbers, others in (
        ([one.features for one in values], [one.features for one in clean]),
        ([one.norms for one in values], [one.norms for one in clean]),
    ):
        mean = sum(numbers) / len(numbers)
        cells.append(Cell(f"{mean:.2f}", f"{min(numbers):.2f} to {max(numbers):.2f}", sort=mean))
        share = auc(numbers, others)
        cells.append(Cell("") if is_clean else Cell(f"{share:.2f}", f"{len(numbers)} x {len(others)}", sort=share))
    labels = [Cell(task), Cell(model), Cell(attack), Cell(style.title_of(defense))]
    return [*labels, Cell(str(len(values)), sort=len(values)), *cells]


def auc(values: Sequence[float], clean: Sequence[float]) -> float:
    """Share of the pairs in which the first is larger; ties count half."""
    return sum((one > other) + 0.5 * (one == other) for one in values for other in clean) / (len(values) * len(clean))
