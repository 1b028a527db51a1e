"""Compiled layers (`train.compile`): the defenses that they cannot be combined with."""

from collections.abc import Iterable
from typing import Any

from p2p_dist.config.graph import Stage


def reason_against_compiling(stages: Iterable[Stage]) -> str:
    """The reason why a run cannot compile its layers, from its stages; empty where it can."""
    for stage in stages:
        train: Any = stage.spec.get("train")
        if stage.kind == "train" and train.get("compile") is not None:
            if stage.spec.get("objective") is not None:
                return "it trains with a loss of its own"
            if stage.spec.get("align") is not None:
                return "it aligns gradients"
    return ""
