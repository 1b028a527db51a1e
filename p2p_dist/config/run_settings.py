"""Resolved settings of a run, from which its stages are built."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from p2p_dist.config.study import Plugin


@dataclass(frozen=True)
class Settings:
    """Resolved parts of a run's spec that its stages share."""

    data: Mapping[str, Any]
    attack: Plugin
    attack_spec: Mapping[str, Any]
    defense_spec: Mapping[str, Any]
    model: Mapping[str, Any]
    train: Mapping[str, Any]
    seed: int
    local: Mapping[str, Mapping[str, str]]
    extra_models: Mapping[str, tuple[Mapping[str, Any], Mapping[str, str]]] = field(default_factory=dict)
    """Identity and local path of every further model that an option of the defense names, by the option."""
    attack_models: Mapping[str, tuple[Mapping[str, Any], Mapping[str, str]]] = field(default_factory=dict)
    """The same for options of the attack."""
    suites: tuple[str, ...] = ()
    """Extra test suites of the study."""
    further_steps: int | None = None
    """Steps of clean training between a defense and its evaluation."""
    rows_seed: int | None = None
    """Seed of the attacked rows; None where neither the attack nor the split draws."""
    untouched_seed: int | None = None
    """Seed of the rows before the attack; None where their split draws nothing."""
    text_answers: bool = False
    """True for a task that is answered with text."""
    attack_active: bool = True
    """False for the attack that changes no row."""
