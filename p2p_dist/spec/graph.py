"""Stages: the unit that is identified, shared, scheduled and found again.

A run is a small graph of stages. A defense declares which stages it needs as pure data by calling the methods of
`Builder`; equal stages of different runs fall together by id.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

from p2p_dist.spec.identity import stage_id
from p2p_dist.spec.study import Plugin

Kind = Literal["data", "train", "score", "edit", "eval"]


@dataclass(frozen=True)
class Stage:
    """One piece of work. `spec` and `reads` (role -> stage id) are identity; `local` says where this machine keeps its
    inputs and is not."""

    kind: Kind
    spec: Mapping[str, Any]
    reads: Mapping[str, str] = field(default_factory=dict)
    local: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    @cached_property
    def id(self) -> str:
        return stage_id(self.kind, self.spec, self.reads)

    def to_json(self) -> dict[str, Any]:
        """What `spec.json` and `resolved.json` hold."""
        return {"id": self.id, "kind": self.kind, "spec": dict(self.spec), "reads": dict(self.reads), "local": dict(self.local)}

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> "Stage":
        """The inverse of `to_json`. Raises ValueError when the id does not match the content (edited by hand)."""
        stage = Stage(data["kind"], data["spec"], data["reads"], data["local"])
        if stage.id != data["id"]:
            raise ValueError(f"stage {data['id']}: its spec hashes to {stage.id}; it was edited or written by another version")
        return stage


@dataclass
class Graph:
    """Stages by id. Insertion order is a valid order of execution."""

    stages: dict[str, Stage] = field(default_factory=dict)

    def add(self, stage: Stage) -> Stage:
        """Add a stage, or find the equal one that is there."""
        return self.stages.setdefault(stage.id, stage)

    def reads(self, stage: Stage) -> Iterator[Stage]:
        """The stages that a stage reads directly."""
        return (self.stages[id_] for id_ in stage.reads.values())

    def ancestors(self, stage: Stage) -> Iterator[Stage]:
        """The stage and everything it needs, inputs first, each once."""
        seen: set[str] = set()
        stack = [(stage, False)]
        while stack:
            current, ready = stack.pop()
            if ready:
                yield current
            elif current.id not in seen:
                seen.add(current.id)
                stack.append((current, True))
                stack += [(parent, False) for parent in self.reads(current)]


@dataclass(frozen=True)
class Settings:
    """What all stages of one run share: the resolved parts of its spec."""

    data: Mapping[str, Any]
    attack: Plugin
    attack_spec: Mapping[str, Any]
    defense_spec: Mapping[str, Any]
    model: Mapping[str, Any]
    train: Mapping[str, Any]
    seed: int
    local: Mapping[str, Mapping[str, str]]


class Builder:
    """Hands a defense the stages it may ask for. Every method is pure and returns a stage of the graph."""

    def __init__(self, graph: Graph, settings: Settings):
        self.graph, self.settings = graph, settings

    def attacked(self, seed: int | None) -> Stage:
        """The task's rows after the attack: training rows, reserved rows and test suites."""
        spec = {"step": "attack", **self.settings.data, "attack": self.settings.attack_spec, "seed": seed}
        return self.graph.add(Stage("data", spec, local={**self._only("source"), **self._only("attack")}))

    def defended(self, rows: Stage) -> Stage:
        """The rows as the defense rewrites them."""
        spec = {"step": "defend", "defense": self.settings.defense_spec, "seed": self.settings.seed}
        return self.graph.add(Stage("data", spec, {"rows": rows.id}, self._only("defense")))

    def trained(self, rows: Stage) -> Stage:
        """An adapter trained on the rows."""
        spec = {"model": self.settings.model, "train": self.settings.train, "seed": self.settings.seed}
        return self.graph.add(Stage("train", spec, {"rows": rows.id}, self._only("model")))

    def evaluated(self, adapter: Stage, rows: Stage, suites: tuple[str, ...] | None = None) -> Stage:
        """Predictions and metrics of an adapter on the test suites of a data stage (all of them, or the named ones)."""
        spec = {"scoring": "label_logits", "suites": list(suites) if suites else None}
        return self.graph.add(Stage("eval", spec, {"adapter": adapter.id, "rows": rows.id}))

    def _only(self, key: str) -> dict[str, Mapping[str, str]]:
        return {key: self.settings.local[key]} if self.settings.local.get(key) else {}
