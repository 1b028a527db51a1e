"""Combinations of a study's grid, and the settings that the stages of each share."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from p2p_dist import registry
from p2p_dist.config.model import ModelRef
from p2p_dist.config.plugin_files import FilePlace, places_of, spec_of
from p2p_dist.config.run_settings import Settings
from p2p_dist.config.study import Plugin, StudySpec, TrainSpec


class RowSource(Protocol):
    """Place and digest of the rows of a task (`p2p_dist.data.sources.Source`)."""

    @property
    def kind(self) -> str: ...
    @property
    def place(self) -> str: ...
    @property
    def digest(self) -> str: ...


@dataclass(frozen=True)
class Combination:
    """One value per axis. Plug-ins are loaded by name, so their classes are not known here."""

    cell: Mapping[str, str]
    task: Any
    source: RowSource
    model: ModelRef
    attack: Any
    defense: Any
    seed: int
    training: TrainSpec


def settings_of(
    combinations: Sequence[Combination],
    study: StudySpec,
    files: Mapping[str, FilePlace],
    models: Mapping[str, ModelRef],
) -> Iterator[Settings]:
    """Settings of every combination; those that differ in their seeds alone share all else."""
    known: dict[tuple[int, ...], Settings] = {}
    for one in combinations:
        key = tuple(map(id, (one.task, one.source, one.model, one.attack, one.defense, one.training)))
        if key not in known:
            known[key] = _settings(one, study, files, models)
        untouched_seed = one.seed if study.rows.seed == "study" else None
        rows_seed = one.seed if one.attack.active else untouched_seed
        yield replace(known[key], seed=one.seed, rows_seed=rows_seed, untouched_seed=untouched_seed)


def _settings(
    one: Combination, study: StudySpec, files: Mapping[str, FilePlace], models: Mapping[str, ModelRef]
) -> Settings:
    task = {"name": registry.name_of(one.task), **one.task.model_dump(exclude=set(one.task.place_fields))}
    task |= registry.code_of(one.task)
    origin = "unknown" if one.task.origins_known and one.task.is_of_unknown_origin else None
    data = {"task": task, "rows": study.rows.model_dump(), "source": one.source.digest, "origin": origin}
    return Settings(
        data=data | ({"prompt": study.prompt.model_dump()} if study.prompt.is_chat else {}),
        attack=one.attack,
        attack_spec={key: value for key, value in spec_of(one.attack, files).items() if key != "via"},
        defense_spec={key: value for key, value in spec_of(one.defense, files).items() if key != "further_steps"},
        model=one.model.identity,
        train=one.training.model_dump(),
        seed=one.seed,
        local={
            "source": {"kind": one.source.kind, "place": one.source.place},
            "model": dict(one.model.local),
            "attack": places_of(one.attack, files),
            "defense": places_of(one.defense, files),
        },
        extra_models=_further_models(one.defense, models),
        attack_models=_further_models(one.attack, models),
        suites=study.suites,
        further_steps=one.defense.further_steps,
        text_answers=one.task.kind == "generation",
        attack_active=one.attack.active,
    )


def _further_models(
    plugin: Plugin, models: Mapping[str, ModelRef]
) -> dict[str, tuple[Mapping[str, Any], Mapping[str, str]]]:
    """Identity and place of the models that options of a plug-in name, by option."""
    named = {option: name for option in plugin.model_options if (name := getattr(plugin, option))}
    return {option: (models[name].identity, models[name].local) for option, name in named.items()}
