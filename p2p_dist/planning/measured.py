"""How long stages really took, and what that says of those to come.

A finished stage that is planned again elsewhere takes as long as it took. For others of the same kind and model the
assumed time is multiplied by measured over assumed, both summed over what is finished, so that long runs count for
more. Times of CPUs say nothing of GPUs: only those of the planned cluster's kind of device are used.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from p2p_dist.config.graph import Graph, Stage
from p2p_dist.planning.durations import Rates, model_of

Origin = Literal["recorded", "rate", "assumed"]


@dataclass(frozen=True)
class Finished:
    """A stage of `graph` that is done: seconds on one device, which is its share of a cohort's time, times its
    ranks."""

    id: str
    graph: Graph
    seconds: float
    on_gpu: bool
    device: str


@dataclass(frozen=True)
class Timings:
    """What was found in a runs folder: finished stages of any study, and the files that could not be read."""

    finished: Sequence[Finished] = ()
    unread: Sequence[str] = ()


@dataclass(frozen=True)
class Rate:
    """Measured over assumed time, and what that rests on: how many stages, on which devices."""

    factor: float
    stages: int
    devices: Sequence[str]


@dataclass(frozen=True)
class Durations:
    """How long the stages of a study take: as recorded, else by the rate of their model, else as assumed."""

    assumed: Rates
    recorded: Mapping[str, float] = field(default_factory=dict)
    """Seconds by stage id."""
    rates: Mapping[tuple[str, str], Rate] = field(default_factory=dict)
    """By kind and canonical model."""
    elsewhere: int = 0
    """Finished stages that were left out, because they ran on the other kind of device."""
    unread: Sequence[str] = ()

    def seconds(self, graph: Graph, stage: Stage) -> float:
        """Time of one stage on one device."""
        if (recorded := self.recorded.get(stage.id)) is not None:
            return recorded
        rate = self.rates.get((stage.kind, model_of(graph, stage)))
        return self.assumed.seconds(graph, stage) * (rate.factor if rate else 1.0)

    def origin(self, graph: Graph, stage: Stage) -> Origin:
        """What the time of a stage rests on."""
        if stage.id in self.recorded:
            return "recorded"
        return "rate" if (stage.kind, model_of(graph, stage)) in self.rates else "assumed"

    def origins(self, graph: Graph, ids: Iterable[str]) -> dict[str, int]:
        """How many of the stages with a model are of each origin."""
        stages = [graph.stages[id_] for id_ in ids]
        found = Counter(self.origin(graph, stage) for stage in stages if stage.kind not in ("data", "edit"))
        return {origin: found[origin] for origin in ("recorded", "rate", "assumed")}


def measure(timings: Timings, assumed: Rates) -> Durations:
    """What finished stages say; one that is in several studies counts once."""
    by_id = {one.id: one for one in timings.finished}
    here = [one for one in by_id.values() if one.on_gpu == bool(assumed.cluster.gpus_per_node)]
    alike: dict[tuple[str, str], list[tuple[float, float, str]]] = defaultdict(list)
    for one in here:
        stage = one.graph.stages[one.id]
        alike[stage.kind, model_of(one.graph, stage)].append(
            (one.seconds, assumed.seconds(one.graph, stage), one.device)
        )
    rates = {
        key: Rate(
            sum(took for took, _, _ in found) / sum(said for _, said, _ in found),
            len(found),
            sorted({device for _, _, device in found}),
        )
        for key, found in alike.items()
    }
    return Durations(assumed, {one.id: one.seconds for one in here}, rates, len(by_id) - len(here), timings.unread)
