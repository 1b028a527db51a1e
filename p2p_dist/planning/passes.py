"""Whether the runs of a cohort share a forward pass, or each has one of its own.

Together, operations are issued once for all runs, which is a gain while issuing them takes longer than computing them.
Where computing takes longer, K passes take no longer than one of K times the rows, and keep the activations of one run
at a time. The answer follows from shapes and counts alone, never from a clock, so that the same study gives the same
bits.
"""

from typing import Literal

Device = Literal["cuda", "cpu"]

ISSUE_SECONDS_PER_LAYER = {"cuda": 0.0019, "cpu": 0.0019}
"""Assumed: issuing the forward and backward pass of one block, without CUDA graphs."""
OPERATIONS_PER_SECOND = {"cuda": 4e14, "cpu": 4e11}
"""Assumed: a GPU of the class of an H100 in bfloat16; two CPU cores."""


def apart(weights: int, layers: int, tokens: float, device: Device) -> bool:
    """Whether every run gets a pass of its own. `weights` of the frozen linear layers, `tokens` of one run in one pass.

    A LoRA step is 4 operations per weight and token: forward, and the gradient that flows through.
    """
    return 4 * weights * tokens / OPERATIONS_PER_SECOND[device] > layers * ISSUE_SECONDS_PER_LAYER[device]
