"""The stages that a defense may ask for, as pure data.

`Builder` adds them to the graph of the study; equal stages of different runs are one, because they have one id.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from p2p_dist import registry
from p2p_dist.config.graph import Graph, Stage
from p2p_dist.config.methods import (
    Alignment,
    CleanGenDecoding,
    ConfidenceRule,
    Method,
    Objective,
    Reparametrization,
    WeightEdit,
    WeightedSum,
)
from p2p_dist.config.run_settings import Settings
from p2p_dist.config.score_methods import ScoreMethod
from p2p_dist.config.study import Plugin, TrainSpec
from p2p_dist.errors import UserError, user_error


@dataclass(frozen=True)
class Training:
    """Options of one training; the default is the study's own training from a fresh adapter."""

    start: Stage | None = None
    """Adapter to initialise from, of the same base and LoRA shape."""
    merged: Stage | None = None
    """Adapter to fold into the base before a fresh one is trained on it."""
    plus: Stage | None = None
    """Adapter to add to `start`, by the weights of `weighted`."""
    weighted: WeightedSum | None = None
    prune: WeightEdit | None = None
    """Change of the base's weights, after `merged` is folded in."""
    align: Alignment | None = None
    """Trusted rows that give the gradients their direction."""
    changes: Mapping[str, Any] = field(default_factory=dict)
    """Settings that differ from the study's `train`, nested alike, such as {"lora": {"r": 1}}."""
    stop_after_steps: int | None = None
    """Last step, on the unchanged learning-rate schedule of the full training; 0 trains nothing."""
    objective: Objective | None = None
    """Loss in place of cross-entropy on the answer tokens."""
    teacher: Stage | None = None
    """Adapter of the same base and LoRA shape that the objective compares the student with."""
    reparametrized: Reparametrization | None = None
    """Nets that generate the adapter and are trained in its place."""
    trusted_base: bool = False
    """The model must be free of the attacker's weights; E241 where the attack hands on a poisoned adapter."""

    @property
    def needs_fresh_adapter(self) -> bool:
        """True where no poisoned adapter can be the start: it has another shape or origin."""
        return self.trusted_base or self.reparametrized is not None or "lora" in self.changes


@dataclass(frozen=True)
class Evaluation:
    """Options of one evaluation; the default is greedy answers to all test suites."""

    suites: tuple[str, ...] = ()
    """Suites by name; empty for all of them and those that the study adds."""
    judge: Stage | None = None
    """Score stage over the same suites, by which `reject` decides."""
    reject: ConfidenceRule | None = None
    """Rule by which the system rejects rows in place of an answer."""
    decode: CleanGenDecoding | None = None
    """Decoding of text answers other than greedy."""
    reference: Stage | str | None = None
    """Reference model of `decode`: an adapter of the same shape, or the option of the defense that names a model."""


def plugin_spec(plugin: Plugin) -> dict[str, Any]:
    """A plug-in as the specs of stages hold it: name, options, and the digest of code from outside the package."""
    return {"name": registry.name_of(plugin), **plugin.model_dump(), **registry.code_of(plugin)}


STUDY_TRAINING = Training()
ALL_SUITES = Evaluation()


class Builder:
    """Adds the stages of one run to the graph. Every method returns a stage and reads nothing but its arguments.

    A role is the name under which a stage finds each of the stages that it reads.
    """

    def __init__(self, graph: Graph, settings: Settings):
        self.graph, self.settings = graph, settings
        self.start: Stage | None = None
        """The attacker's adapter, from which trainings start unless they name another; None unless the attack poisons
        weights."""
        self.table: Stage | None = None
        """Score stage with the attacker's rewrites, where the study makes them."""

    def of_defense(self, defense: Plugin) -> "Builder":
        """A builder of the same run whose rewrites are those of another defense, without files of its own.

        Its stages have the ids that they have in runs of that defense, and are shared with them. Raises UserError E107
        for one with `further_steps`, which belong to the defense that is evaluated.
        """
        if "further_steps" in defense.model_dump():
            what = f"further_steps stand inside {registry.name_of(defense)}, which is not evaluated by itself"
            raise user_error("E107", what, "defense", "set further_steps of the outer defense")
        builder = Builder(self.graph, replace(self.settings, defense_spec=plugin_spec(defense)))
        builder.start, builder.table = self.start, self.table
        return builder

    def attacked(self, seed: int | None, train_rows: Literal["clean"] | None = None) -> Stage:
        """Rows of the task after the attack: training rows, trusted rows and test suites.

        `clean`: the attack's test suites with untouched training rows.
        """
        spec = {
            "step": "attack",
            **self.settings.data,
            "attack": self.settings.attack_spec,
            "seed": seed,
            "train_rows": train_rows,
        }
        local = {**self._local("source"), **self._local("attack")}
        return self.graph.add(Stage("data", spec, _ids({"table": self.table}), local))

    def attack_table(self, method: ScoreMethod, model: str) -> Stage:
        """Rewrites of the task's rows before the attack, by the model that this option of the attack names."""
        untouched = plugin_spec(registry.load("attacks", "none")())
        spec = {"step": "attack", **self.settings.data, "attack": untouched, "seed": self.settings.untouched_seed}
        rows = self.graph.add(Stage("data", {**spec, "train_rows": None}, local=self._local("source")))
        identity, place = self.settings.attack_models[model]
        local = {**({"model": place} if place else {}), **self._local("attack")}
        return self.graph.add(Stage("score", {"method": method.to_spec(), "model": identity}, {"rows": rows.id}, local))

    def handed_on(self, seed: int) -> Stage:
        """Rows for a defender who receives poisoned weights: clean training rows and the attack's test suites.

        The attacker trains an adapter on the attacked rows, and every training of the run starts from it (PSIM, arXiv
        2402.12168).
        """
        self.start = self.trained(self.attacked(seed))
        return self.attacked(seed, "clean")

    def defended(
        self,
        rows: Stage,
        scores: Mapping[str, Stage] | None = None,
        phase: str | None = None,
        changes: Mapping[str, Any] | None = None,
    ) -> Stage:
        """Rows as the defense rewrites them, given score stages by role.

        `phase` names one of several rewrites of a defense; `changes` are options that differ from the study's, for rows
        that the study's other defenses may share.
        """
        defense = {**self.settings.defense_spec, **(changes or {})}
        spec = {"step": "defend", "defense": defense, "seed": self.settings.seed, "phase": phase}
        return self.graph.add(Stage("data", spec, {"rows": rows.id, **_ids(scores)}, self._local("defense")))

    def tested(self, rows: Stage) -> Stage:
        """Test suites of a data stage with those that the study adds, or the stage itself where it adds none.

        For a defense that edits or scores test texts; `evaluated` calls it.
        """
        if not self.settings.suites or rows.kind == "edit" or rows.spec.get("step") == "probe":
            return rows
        return self.graph.add(
            Stage("data", {"step": "probe", "suites": sorted(self.settings.suites)}, {"rows": rows.id})
        )

    def edited(self, rows: Stage, scores: Mapping[str, Stage] | None = None, phase: str | None = None) -> Stage:
        """Test suites as a test-time defense rewrites them, clean and triggered ones by the same rule.

        Phase `trial` edits the trusted rows in every way that the defense may choose.
        """
        spec = {"defense": self.settings.defense_spec, "phase": phase}
        return self.graph.add(Stage("edit", spec, {"rows": rows.id, **_ids(scores)}, self._local("defense")))

    def trained(self, rows: Stage, training: Training = STUDY_TRAINING) -> Stage:
        """An adapter trained on the rows.

        Raises UserError E241 for a training that cannot start from the poisoned adapter of an attack by weights, and
        pydantic's ValidationError for a change of a setting that does not exist.
        """
        start = training.start
        if self.start and not start and not training.merged:
            if training.needs_fresh_adapter:
                raise self._another_base()
            start = self.start
        spec = {
            "model": self.settings.model,
            "train": _changed(self.settings.train, training.changes),
            "seed": self.settings.seed,
            "stop_after_steps": training.stop_after_steps,
            "objective": _spec(training.objective),
            "prune": _spec(training.prune),
            "weighted": _spec(training.weighted),
            "align": _spec(training.align),
            "reparametrized": _spec(training.reparametrized),
        }
        others = {"start": start, "plus": training.plus, "merged": training.merged, "teacher": training.teacher}
        return self.graph.add(Stage("train", spec, {"rows": rows.id, **_ids(others)}, self._local("model")))

    def scored(self, rows: Stage, method: ScoreMethod, adapter: Stage | None = None, model: str | None = None) -> Stage:
        """Numbers for each row from a model.

        With `adapter`, by that adapter on its base; with `model`, by the model that this option of the defense names;
        with neither, by the run's own base, which the method may train with the study's settings. Raises UserError E241
        for the last one where the attack poisons weights.
        """
        spec: dict[str, Any] = {"method": method.to_spec()}
        reads, local = {"rows": rows.id}, dict[str, Mapping[str, str]]()
        if adapter is not None:
            reads["adapter"] = adapter.id
        elif model is not None:
            spec["model"], place = self.settings.extra_models[model]
            local = {"model": place} if place else {}
        elif self.start is not None:
            raise self._another_base()
        else:
            spec.update(model=self.settings.model, train=self.settings.train, seed=self.settings.seed)
            local = self._local("model")
        return self.graph.add(Stage("score", spec, reads, local))

    def evaluated(self, adapter: Stage, rows: Stage, evaluation: Evaluation = ALL_SUITES) -> Stage:
        """Predictions and metrics of an adapter on the test suites of a data or edit stage, after `further_steps` of
        clean training where the defense has them."""
        if self.settings.further_steps:
            adapter = self._trained_further(adapter, self.settings.further_steps)
        reference = evaluation.reference
        identity, place = self.settings.extra_models[reference] if isinstance(reference, str) else (None, None)
        spec = {
            "scoring": "label_logits",
            "suites": list(evaluation.suites) or None,
            "refuse": _spec(evaluation.reject),
            "decode": _spec(evaluation.decode),
            "reference": identity,
        }
        rows = rows if evaluation.suites else self.tested(rows)
        others = {"judge": evaluation.judge, "reference": None if isinstance(reference, str) else reference}
        reads = {"adapter": adapter.id, "rows": rows.id, **_ids(others)}
        return self.graph.add(Stage("eval", spec, reads, {"reference": place} if place else {}))

    def _trained_further(self, adapter: Stage, steps: int) -> Stage:
        """The adapter after so many steps on the task's rows before the attack, at a constant learning rate."""
        rows = self.attacked(self.settings.rows_seed, "clean" if self.settings.attack_active else None)
        train = {
            **self.settings.train,
            "lora": adapter.spec["train"]["lora"],
            "num_train_epochs": steps,  # enough for the steps, however few rows there are
            "lr_scheduler_type": "constant",
            "warmup_steps": 0,
        }
        none = dict.fromkeys(("objective", "reparametrized", "weighted", "align"))
        changes = {"train": train, "stop_after_steps": steps, **none}
        base = {role: id_ for role, id_ in adapter.reads.items() if role in ("merged", "calibration")}
        if adapter.spec.get("prune"):  # the base is pruned as it was, by the same rows
            base.setdefault("calibration", adapter.reads["rows"])
        reads = {"rows": rows.id, "start": adapter.id, **base}
        return self.graph.add(Stage("train", {**adapter.spec, **changes}, reads, self._local("model")))

    def _another_base(self) -> UserError:
        return user_error(
            "E241",
            f"defense {self.settings.defense_spec['name']} trains a model that does not begin with the poisoned "
            "adapter",
            "attack.via",
            "set via: data, or exclude this defense for attacks by weights",
        )

    def _local(self, key: str) -> dict[str, Mapping[str, str]]:
        return {key: self.settings.local[key]} if self.settings.local.get(key) else {}


def _ids(stages: Mapping[str, Stage | None] | Mapping[str, Stage] | None) -> dict[str, str]:
    return {role: stage.id for role, stage in (stages or {}).items() if stage}


def _spec(method: Method | None) -> dict[str, Any] | None:
    return method.to_spec() if method else None


def _changed(train: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """The study's training settings with a defense's own. Raises pydantic's ValidationError for an unknown one."""
    nested = {key: {**train[key], **value} if isinstance(value, Mapping) else value for key, value in changes.items()}
    return TrainSpec.model_validate({**train, **nested}).model_dump() if changes else dict(train)
