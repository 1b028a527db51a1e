"""Measured durations of stages, and predictions from them.

A finished stage that is planned again elsewhere is assumed to take the same time. For other stages of the same kind and
model, the assumed time is multiplied by measured over assumed, both summed over the finished stages, so that long runs
weigh more. CPU times do not predict GPU times: only those of the planned cluster's kind of device are used.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import fsum
from typing import Literal

from p2p_dist.config.graph import Graph, Stage
from p2p_dist.config.stages import TrainStage, parse
from p2p_dist.planning.cluster import ClusterSpec
from p2p_dist.planning.durations import Rates, attacked_rows, model_of
from p2p_dist.planning.row_tokens import trained_on

Origin = Literal["recorded", "rate", "assumed"]


@dataclass(frozen=True)
class Finished:
    """A finished stage of `graph`: seconds on one device, i.e. its share of the cohort's time, times its ranks."""

    id: str
    graph: Graph
    seconds: float
    on_gpu: bool
    device: str
    cores: int | None = None
    """Cores that it was computed on without a GPU, where the cost file says so and one process computed."""

    row_tokens: float | None = None
    """Tokens per row, where it is a training and its cost file says so."""

    def seconds_on(self, cluster: ClusterSpec) -> float:
        """Its seconds on a worker of a cluster: without a GPU, as many as the worker has fewer cores, or more."""
        if self.cores is None:
            return self.seconds
        return self.seconds * self.cores / max(1, cluster.cpus_per_node // cluster.slots_per_node)


@dataclass(frozen=True)
class Timings:
    """Timings of a runs folder: finished stages of any study, and the files that could not be read."""

    finished: Sequence[Finished] = ()
    unread: Sequence[str] = ()


@dataclass(frozen=True)
class Rate:
    """Measured over assumed time, with the number of stages and the devices it was measured on."""

    factor: float
    stages: int
    devices: Sequence[str]


@dataclass(frozen=True)
class Durations:
    """Durations of the stages of a study: as recorded, else by the rate of their model, else as assumed."""

    assumed: Rates
    recorded: Mapping[str, float] = field(default_factory=dict)
    """Recorded seconds by stage id."""
    rates: Mapping[tuple[str, str], Rate] = field(default_factory=dict)
    """Rates by kind of stage and canonical model."""
    elsewhere: int = 0
    """Number of finished stages left out because they ran on the other kind of device."""
    unread: Sequence[str] = ()
    _seconds: dict[str, float] = field(default_factory=dict, repr=False, compare=False)
    """Seconds by stage id, once they were asked for: an id fixes all that a stage reads."""

    def seconds(self, graph: Graph, stage: Stage) -> float:
        """Time of one stage on one device."""
        if stage.id not in self._seconds:
            self._seconds[stage.id] = self._computed(graph, stage)
        return self._seconds[stage.id]

    def _computed(self, graph: Graph, stage: Stage) -> float:
        if (recorded := self.recorded.get(stage.id)) is not None:
            return recorded
        rate = self.rates.get((stage.kind, model_of(graph, stage)))
        return self.assumed.seconds(graph, stage) * (rate.factor if rate else 1.0)

    def origin(self, graph: Graph, stage: Stage) -> Origin:
        """Source of the time of a stage."""
        if stage.id in self.recorded:
            return "recorded"
        return "rate" if (stage.kind, model_of(graph, stage)) in self.rates else "assumed"

    def origins(self, graph: Graph, ids: Iterable[str]) -> dict[str, int]:
        """Number of stages by origin, stages without a model not counted."""
        stages = [graph.stages[id_] for id_ in ids]
        counts = Counter(self.origin(graph, stage) for stage in stages if stage.kind not in ("data", "edit"))
        return {origin: counts[origin] for origin in ("recorded", "rate", "assumed")}


def measure(timings: Timings, assumed: Rates) -> Durations:
    """Derive durations from finished stages; a stage that is in several studies counts once. Rows are as long as the
    trainings found them, in the assumed time of what is finished as of what is planned."""
    by_id = {stage.id: stage for stage in timings.finished}
    assumed = replace(assumed, lengths=replace(assumed.lengths, trained_tokens=_trained_tokens(by_id.values())))
    same_device = [stage for stage in by_id.values() if stage.on_gpu == bool(assumed.cluster.gpus_per_node)]
    samples: dict[tuple[str, str], list[tuple[float, float, str]]] = defaultdict(list)
    for finished in same_device:
        stage = finished.graph.stages[finished.id]
        samples[stage.kind, model_of(finished.graph, stage)].append(
            (finished.seconds_on(assumed.cluster), assumed.seconds(finished.graph, stage), finished.device)
        )
    rates = {
        key: Rate(
            fsum(measured for measured, _, _ in pairs) / fsum(expected for _, expected, _ in pairs),
            len(pairs),
            sorted({device for _, _, device in pairs}),
        )
        for key, pairs in samples.items()
    }
    recorded = {stage.id: stage.seconds_on(assumed.cluster) for stage in same_device}
    return Durations(assumed, recorded, rates, len(by_id) - len(same_device), timings.unread)


def _trained_tokens(finished: Iterable[Finished]) -> dict[tuple[str, int, int], float]:
    """Tokens of a row by what they depend on: the mean of the trainings that say so."""
    found: dict[tuple[str, int, int], list[float]] = defaultdict(list)
    for one in finished:
        stage = one.graph.stages[one.id]
        attacked, typed = attacked_rows(one.graph, stage), parse(stage)
        if one.row_tokens is not None and attacked is not None and isinstance(typed, TrainStage):
            found[trained_on(attacked.source, typed.train)].append(one.row_tokens)
    return {key: fsum(tokens) / len(tokens) for key, tokens in found.items()}
