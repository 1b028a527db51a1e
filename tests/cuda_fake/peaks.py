"""Peaks of trainings on the fake GPU beside the planner's, for all layers of a model."""

from dataclasses import dataclass

from p2p_dist.planning.memory import Memory, Split, Work, estimate
from tests.cuda_fake.cases import Case, deeper
from tests.cuda_fake.process import Measure
from tests.cuda_fake.variants import IMAGE

SIZES = ("0.6b", "4b", "8b", "14b")
BATCHES = (
    (32, 64, False, None, 1),
    (32, 64, True, None, 1),
    (8, 64, False, None, 4),
    (1, 4096, False, None, 1),
    (32, 512, False, None, 1),
    (32, 512, True, None, 1),
    (32, 4096, True, None, 1),
    (4, 4096, False, 1, 1),
    (4, 4096, True, 1, 1),
)
"""Rows of a batch, tokens of a row, gradient checkpointing, micro-batch, runs of the cohort."""


@dataclass(frozen=True)
class Peak:
    """Bytes of the base, with all that stays between steps (`held`), and at the peak, and the plan of them."""

    base: int
    held: int
    peak: int
    planned: Memory

    @property
    def planned_peak(self) -> int:
        """Planned peak, the runtime left out: no tensor is in it."""
        return self.planned.total - self.planned.runtime

    @property
    def planned_pass(self) -> int:
        """Planned bytes of a pass beside what stays."""
        return self.planned.activations + self.planned.logits


VARIANTS = (
    Case("train", variant="full", tokens=64),
    Case("train", variant="full", rows=8, tokens=2048),
    Case("train", variant="images", size="qwen2.5-vl-3b-instruct", rows=8, tokens=64),
    Case("train", variant="images", size="qwen2.5-vl-3b-instruct", rows=32, tokens=64, recompute=True),
)
"""Peaks in the update and in the pass of full fine-tuning, and with images in the rows."""


def grid(size: str) -> tuple[Case, ...]:
    """All cases of one size of Qwen3."""
    return tuple(
        Case("train", size=size, rows=rows, tokens=tokens, recompute=recompute, micro_batch=micro_batch, runs=runs)
        for rows, tokens, recompute, micro_batch, runs in BATCHES
    )


def peak_of(measure: Measure, case: Case) -> Peak:
    """The peak with all layers of the model: a layer adds the same bytes as the one before."""
    shape = case.whole_shape
    few, more = measure(case), measure(deeper(case))
    base, held, peak = (
        few[key] + (shape.layers - case.layers) * (more[key] - few[key]) for key in ("base", "held", "peak")
    )
    return Peak(base, held, peak, estimate(_work(case), Split(), "cuda"))


def _work(case: Case) -> Work:
    """The case as the planner knows it, with all layers."""
    image = IMAGE if case.variant == "images" else 0
    return Work(
        case.whole_shape,
        case.lora,
        2,
        case.runs,
        case.micro_batch or case.rows,
        case.tokens + image,
        answers=1,
        recompute=case.recompute,
        global_rows=case.rows,
        full=case.variant == "full",
        images=case.rows * case.steps if image else 0,
        image_tokens=image,
    )
