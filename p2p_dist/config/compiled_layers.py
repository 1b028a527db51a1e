"""Compiled layers (`train.compile`): the defenses that they cannot be combined with."""

from collections.abc import Iterable
from typing import Any

from p2p_dist.config.graph import Stage


def is_compiled(stage: Stage) -> bool:
    """True for a stage that trains compiled layers."""
    train: Any = stage.spec.get("train")
    return bool(train) and train.get("compile") is not None


def reason_against_compiling(stages: Iterable[Stage]) -> str:
    """The reason why a run cannot compile its layers, from its stages; empty where it can."""
    for stage in stages:
        if stage.kind == "train" and is_compiled(stage):
            if stage.spec.get("objective") is not None:
                return "it trains with a loss of its own"
            if stage.spec.get("align") is not None:
                return "it aligns gradients"
    return ""
