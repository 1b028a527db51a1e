"""Stages and their graph. A stage is the unit that has an id, is shared by runs, scheduled and stored.

Example: runs `badnets x none` and `badnets x p2p` of one seed read the same attacked rows, so the graph holds that data
stage once; `p2p` adds a second data stage that reads it, and each run has a training and an evaluation of its own.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property, wraps
from typing import Any, Literal, TypeVar

from p2p_dist.config.identity import canonical, stage_id

Kind = Literal["data", "train", "score", "edit", "eval"]


@dataclass(frozen=True)
class Stage:
    """One piece of work. `spec` and `reads` (role -> stage id) are hashed into the id; `local`, the paths of its inputs
    on this machine, is not."""

    kind: Kind
    spec: Mapping[str, Any]
    reads: Mapping[str, str] = field(default_factory=dict)
    local: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    @cached_property
    def id(self) -> str:
        """Hash of kind, spec and reads."""
        return stage_id(self.kind, self.spec, self.reads)

    @cached_property
    def model(self) -> str:
        """Canonical identity of the model that the stage names; empty when it names none."""
        return canonical(self.spec["model"]) if "model" in self.spec else ""

    def to_json(self) -> dict[str, Any]:
        """The stage as `spec.json` and `resolved.json` hold it."""
        return {
            "id": self.id,
            "kind": self.kind,
            "spec": dict(self.spec),
            "reads": dict(self.reads),
            "local": dict(self.local),
        }

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> "Stage":
        """Inverse of `to_json`. Raises ValueError when the id does not match the content."""
        stage = Stage(data["kind"], data["spec"], data["reads"], data["local"])
        if stage.id != data["id"]:
            raise ValueError(
                f"stage {data['id']}: its spec hashes to {stage.id}; it was edited or written by another version"
            )
        return stage


Answer = TypeVar("Answer")


def once_per_stage(function: Callable[[Stage], Answer]) -> Callable[[Stage], Answer]:
    """Make a function be called once for each stage object, which keeps the answer as it keeps cached properties."""
    name = f"{function.__module__}.{function.__name__}"

    @wraps(function)
    def answer(stage: Stage) -> Answer:
        cached = vars(stage)
        if name not in cached:
            cached[name] = function(stage)
        known: Answer = cached[name]
        return known

    return answer


@dataclass
class Graph:
    """Stages by id. Insertion order is a valid order of execution."""

    stages: dict[str, Stage] = field(default_factory=dict)

    def add(self, stage: Stage) -> Stage:
        """Add a stage, or return the equal one that exists."""
        return self.stages.setdefault(stage.id, stage)

    def reads(self, stage: Stage) -> Iterator[Stage]:
        """Stages that a stage reads directly."""
        return (self.stages[id_] for id_ in stage.reads.values())

    def ancestors(self, stage: Stage) -> Iterator[Stage]:
        """The stage and all stages that it needs, inputs first, each once."""
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

    def for_rows(self) -> "Graph":
        """The stages that the rows of all trainings need: data stages alone, unless a defense scores rows by a
        model."""
        training_rows = {stage.reads["rows"] for stage in self.stages.values() if stage.kind == "train"}
        needed = {stage.id for id_ in training_rows for stage in self.ancestors(self.stages[id_])}
        return Graph({id_: stage for id_, stage in self.stages.items() if id_ in needed})
