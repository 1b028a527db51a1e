"""Stages: the unit that is identified, shared, scheduled and found again.

A run is a small graph of stages. A defense declares which stages it needs as pure data by calling the methods of
`Builder`; equal stages of different runs fall together by id.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

from p2p_dist.config.identity import canonical, stage_id
from p2p_dist.config.study import Plugin, TrainSpec
from p2p_dist.errors import UserError, user_error

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

    @cached_property
    def model(self) -> str:
        """The canonical identity of the model that the stage names; empty when it names none."""
        return canonical(self.spec["model"]) if "model" in self.spec else ""

    def to_json(self) -> dict[str, Any]:
        """What `spec.json` and `resolved.json` hold."""
        return {
            "id": self.id,
            "kind": self.kind,
            "spec": dict(self.spec),
            "reads": dict(self.reads),
            "local": dict(self.local),
        }

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> "Stage":
        """The inverse of `to_json`. Raises ValueError when the id does not match the content (edited by hand)."""
        stage = Stage(data["kind"], data["spec"], data["reads"], data["local"])
        if stage.id != data["id"]:
            raise ValueError(
                f"stage {data['id']}: its spec hashes to {stage.id}; it was edited or written by another version"
            )
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

    def for_rows(self) -> "Graph":
        """The stages that the rows of every training need: nothing but rows, where no defense asks a model about
        them."""
        wanted = {id_ for stage in self.stages.values() if stage.kind == "train" for id_ in [stage.reads["rows"]]}
        needed = {made.id for id_ in wanted for made in self.ancestors(self.stages[id_])}
        return Graph({id_: stage for id_, stage in self.stages.items() if id_ in needed})


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
    extra_models: Mapping[str, tuple[Mapping[str, Any], Mapping[str, str]]] = field(default_factory=dict)
    """Identity and place of every further model that an option of the defense names, by the option."""
    suites: tuple[str, ...] = ()
    """Test suites that the study asks for beside the usual ones."""


class Builder:
    """Hands a defense the stages it may ask for. Every method is pure and returns a stage of the graph.

    A role is the name under which a stage that reads several others finds each of them again.
    """

    def __init__(self, graph: Graph, settings: Settings):
        self.graph, self.settings = graph, settings
        self.start: Stage | None = None
        """The adapter that trainings begin with unless they are given another: the attacker's, where weights are
        poisoned."""

    def attacked(self, seed: int | None, train_rows: Literal["clean"] | None = None) -> Stage:
        """The task's rows after the attack: training rows, reserved rows and test suites. `clean`: with the attack's
        test suites and training rows that nobody has touched."""
        spec = {
            "step": "attack",
            **self.settings.data,
            "attack": self.settings.attack_spec,
            "seed": seed,
            "train_rows": train_rows,
        }
        return self.graph.add(Stage("data", spec, local={**self._only("source"), **self._only("attack")}))

    def handed_on(self, seed: int) -> Stage:
        """Poison weights in place of rows: the attacker trains an adapter on the attacked rows, with which every
        training of the run then begins. Returns the rows of whoever takes it: clean ones, with the attack's test suites
        (reference: PSIM, arXiv 2402.12168)."""
        self.start = self.trained(self.attacked(seed))
        return self.attacked(seed, "clean")

    def defended(
        self,
        rows: Stage,
        scores: Mapping[str, Stage] | None = None,
        phase: str | None = None,
        changes: Mapping[str, Any] | None = None,
    ) -> Stage:
        """The rows as the defense rewrites them, with the help of score stages by role. `phase` tells apart the
        rewrites of a defense that makes several; `changes` are options that differ from the study's, for rows that
        another defense of the study may share."""
        defense = {**self.settings.defense_spec, **(changes or {})}
        spec = {"step": "defend", "defense": defense, "seed": self.settings.seed, "phase": phase}
        return self.graph.add(Stage("data", spec, {"rows": rows.id, **_ids(scores)}, self._only("defense")))

    def tested(self, rows: Stage) -> Stage:
        """The test suites of a data stage with those that the study adds, or the stage itself. A defense that edits or
        scores test texts asks for it first; `evaluated` does so by itself."""
        if not self.settings.suites or rows.kind == "edit" or rows.spec.get("step") == "probe":
            return rows
        return self.graph.add(
            Stage("data", {"step": "probe", "suites": sorted(self.settings.suites)}, {"rows": rows.id})
        )

    def edited(self, rows: Stage, scores: Mapping[str, Stage] | None = None, phase: str | None = None) -> Stage:
        """Test suites as a test-time defense rewrites them: one edit for clean and triggered suites alike. The phase
        `trial` edits the reserved rows in every way that the defense may choose."""
        spec = {"defense": self.settings.defense_spec, "phase": phase}
        return self.graph.add(Stage("edit", spec, {"rows": rows.id, **_ids(scores)}, self._only("defense")))

    def trained(
        self,
        rows: Stage,
        start: Stage | None = None,
        stop_after_steps: int | None = None,
        objective: Mapping[str, Any] | None = None,
        changes: Mapping[str, Any] | None = None,
        merged: Stage | None = None,
        prune: Mapping[str, Any] | None = None,
        reparametrized: Mapping[str, Any] | None = None,
        teacher: Stage | None = None,
        own: bool = False,
    ) -> Stage:
        """An adapter trained on the rows.

        `start` is an adapter whose numbers it begins with (of the same base and LoRA shape); `stop_after_steps` cuts
        the training short without changing its schedule; `objective` is another loss than cross-entropy on the label
        tokens; `changes` are settings that differ from the study's `train`, nested alike; `merged` is an adapter that
        becomes part of the base before a fresh one is trained on it, and `prune` says how that base is then pruned (see
        `modeling.merge`); `reparametrized` trains what generates the adapter in its place (see
        `training.reparametrization`); `teacher` is an adapter of the same base and LoRA shape that the objective holds
        the student against; `own` asks for a model of the defender's own. Raises UserError E241 for one of these, an
        adapter of another shape or a generated one, where the weights that every training begins with are poisoned.
        """
        if self.start and not start and not merged:
            if "lora" in (changes or {}) or reparametrized or own:
                raise self._another_base()
            start = self.start
        spec = {
            "model": self.settings.model,
            "train": _merged(self.settings.train, changes or {}),
            "seed": self.settings.seed,
            "stop_after_steps": stop_after_steps,
            "objective": objective,
            "prune": prune,
            "reparametrized": reparametrized,
        }
        reads = {
            "rows": rows.id,
            **_ids(
                {role: stage for role, stage in (("start", start), ("merged", merged), ("teacher", teacher)) if stage}
            ),
        }
        return self.graph.add(Stage("train", spec, reads, self._only("model")))

    def scored(
        self, rows: Stage, method: Mapping[str, Any], adapter: Stage | None = None, model: str | None = None
    ) -> Stage:
        """Numbers for each row from a model, by a method of `p2p_dist.scores` (`name` and its options).

        With `adapter`, by the base that was tuned; with `model`, by the model that this option of the defense names;
        with neither, by the run's own base, which the method may train under the study's settings (E241 where its
        weights are poisoned).
        """
        spec: dict[str, Any] = {"method": method}
        if adapter is not None:
            return self.graph.add(Stage("score", spec, {"rows": rows.id, "adapter": adapter.id}))
        if model is not None:
            identity, local = self.settings.extra_models[model]
            return self.graph.add(
                Stage("score", {**spec, "model": identity}, {"rows": rows.id}, {"model": local} if local else {})
            )
        if self.start:
            raise self._another_base()
        spec.update(model=self.settings.model, train=self.settings.train, seed=self.settings.seed)
        return self.graph.add(
            Stage(
                "score",
                spec,
                {"rows": rows.id, **({"start": self.start.id} if self.start else {})},
                self._only("model"),
            )
        )

    def evaluated(
        self,
        adapter: Stage,
        rows: Stage,
        suites: tuple[str, ...] | None = None,
        judge: Stage | None = None,
        refuse: Mapping[str, Any] | None = None,
        decode: Mapping[str, Any] | None = None,
        reference: Stage | str | None = None,
    ) -> Stage:
        """Predictions and metrics of an adapter on the test suites of a data or edit stage (all of them and those that
        the study adds, or the named ones).

        `judge` is a score stage over the same suites, and `refuse` the rule by which its numbers make the system refuse
        rows. `decode` is another way to write answers than the likeliest token (see `evaluation.cleangen`), with the
        help of `reference`: an adapter of the same base and LoRA shape, or the option of the defense that names a
        model.
        """
        rows = rows if suites else self.tested(rows)
        identity, local = self.settings.extra_models[reference] if isinstance(reference, str) else (None, None)
        spec = {
            "scoring": "label_logits",
            "suites": list(suites) if suites else None,
            "refuse": refuse,
            "decode": decode,
            "reference": identity,
        }
        others = {"judge": judge, "reference": reference if isinstance(reference, Stage) else None}
        reads = {"adapter": adapter.id, "rows": rows.id, **{role: stage.id for role, stage in others.items() if stage}}
        return self.graph.add(Stage("eval", spec, reads, {"reference": local} if local else {}))

    def _another_base(self) -> UserError:
        what = (
            f"defense {self.settings.defense_spec['name']} trains a model that does not begin with the poisoned adapter"
        )
        return user_error("E241", what, "attack.via", "via: data, or exclude this defense for attacks by weights")

    def _only(self, key: str) -> dict[str, Mapping[str, str]]:
        return {key: self.settings.local[key]} if self.settings.local.get(key) else {}


def _ids(stages: Mapping[str, Stage] | None) -> dict[str, str]:
    return {role: stage.id for role, stage in (stages or {}).items()}


def _merged(train: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """The study's training settings with a defense's own. Raises pydantic's ValidationError for one that does not
    exist."""
    nested = {key: {**train[key], **value} if isinstance(value, Mapping) else value for key, value in changes.items()}
    return TrainSpec.model_validate({**train, **nested}).model_dump() if changes else dict(train)
