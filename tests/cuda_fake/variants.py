"""Kinds of training beside the plain one, by the name in a case: what is trained, on which rows, and by which loss."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from p2p_dist.config.methods import Alignment, Amplification, Ascent, Consistency, Distillation, Objective
from p2p_dist.config.study import TrainSpec
from p2p_dist.modeling.base import Base
from p2p_dist.modeling.full_weights import FullWeights, Trainable
from p2p_dist.modeling.image_tokens import table_of
from p2p_dist.modeling.lora import Adapters
from p2p_dist.modeling.tokenization import Encoded
from p2p_dist.training.reparametrization import Generator
from p2p_dist.training.teacher import taught
from p2p_dist.training.train_run import Aligned, TrainRun

if TYPE_CHECKING:
    from tests.cuda_fake.cases import Case

OBJECTIVES: dict[str, Objective] = {
    "ascent": Ascent(cap=5.0),
    "amplification": Amplification(weight=1e-3, limit=10.0),
    "consistency": Consistency(weight=1.0, epsilon=0.1),
    "distillation": Distillation(label=0.5, soft=0.5, hidden=1e-3, temperature=2.0),
}
GRID = (16, 16)
"""Rows and columns of an image's tokens."""
IMAGE = GRID[0] * GRID[1]


def trainable(case: "Case", base: Base) -> Trainable:
    """All weights for `full`, else adapters."""
    return (
        FullWeights(base.model, base.device) if case.variant == "full" else Adapters(base.model, case.lora, case.runs)
    )


def run_of(
    case: "Case", base: Base, adapters: Trainable, spec: TrainSpec, seed: int, rows: Sequence[Encoded]
) -> TrainRun:
    """One run of the case. A teacher's states are looked up here."""
    run = TrainRun(spec, seed, rows, objective=OBJECTIVES.get(case.variant))
    if case.variant == "aligned":
        return replace(run, aligned=Aligned(Alignment(rows=16, batch=4, raw=0.1), rows[:16]))
    if case.variant == "images":
        return replace(run, rows=_with_images(base, rows))
    if isinstance(adapters, Adapters) and case.variant == "distillation":
        teacher = adapters.init_params(run.stream("teacher"))
        return replace(run, rows=taught(base, adapters, seed, teacher, rows))
    if isinstance(adapters, Adapters) and case.generator:
        return replace(run, generator=Generator(adapters, case.generator))
    return run


def _with_images(base: Base, rows: Sequence[Encoded]) -> list[Encoded]:
    """The rows, each behind an image of its own. A fake tensor has no grid of patches that the tower could read, so its
    features are put into the table as they come out of it."""
    width = base.model.config.get_text_config().hidden_size
    tokens = [
        table_of(base.model).add((row.id,), torch.empty(IMAGE, width, dtype=base.dtype, device=base.device), GRID)
        for row in rows
    ]
    return [Encoded(row.id, [*image, *row.ids], row.targets) for image, row in zip(tokens, rows, strict=True)]
