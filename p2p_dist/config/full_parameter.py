"""Full-parameter fine-tuning (`train.method: full`): the defenses that it cannot be combined with.

A defense that works on an adapter needs one: it folds it into the base, compares it with another, or reads its size.
"""

from collections.abc import Iterable
from typing import Any

from p2p_dist.config.graph import Stage

_TRAININGS = {
    "merged": "it folds an adapter into the base",
    "teacher": "it compares an adapter with another on one base",
    "objective": "its loss compares the adapter with the base",
    "prune": "it prunes the base under an adapter",
    "reparametrized": "it generates an adapter",
}
"""Inputs and settings of a training that need an adapter, and what they are for."""
_READS = {"rows", "start"}
_SETTINGS = {"model", "train", "seed", "stop_after_steps"}
"""Settings of a training in all weights; whatever a defense asks for beside them needs an adapter."""


def is_full(stage: Stage) -> bool:
    """True for a stage whose model is trained in all weights."""
    train: Any = stage.spec.get("train")
    return bool(train) and train.get("method") == "full"


def reason_against(stages: Iterable[Stage]) -> str:
    """The reason why a run cannot train all weights, from its stages; empty where it can."""
    by_id = {stage.id: stage for stage in stages}
    for stage in by_id.values():
        if stage.kind == "train" and is_full(stage):
            settings = {key for key, value in stage.spec.items() if value is not None} - _SETTINGS
            if needed := sorted((stage.reads.keys() - _READS) | settings):
                return next((_TRAININGS[key] for key in needed if key in _TRAININGS), f"it needs {needed[0]}")
        if stage.kind == "score":
            trained = by_id.get(stage.reads.get("adapter", ""), stage)
            if is_full(trained):
                return "it asks a model with an adapter about rows"
    return ""
