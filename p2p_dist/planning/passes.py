"""Choice between one forward pass for all runs of a cohort and one pass per run.

A shared pass issues operations once for all runs, which is faster while issuing takes longer than computing. Where
computing takes longer, K passes take no longer than one over K times the rows, and keep the activations of only one run
at a time. The choice depends on shapes and counts alone, never on a clock, so that the same study gives the same bits.
"""

from typing import Literal

Device = Literal["cuda", "cpu"]

ISSUE_SECONDS_PER_LAYER = {"cuda": 0.0019, "cpu": 0.0019}
"""Assumed time to issue the forward and backward pass of one block, without CUDA graphs."""
OPERATIONS_PER_SECOND = {"cuda": 4e14, "cpu": 4e11}
"""Assumed: a GPU of the class of an H100 in bfloat16; two CPU cores."""


def apart(weights: int, layers: int, tokens: float, device: Device) -> bool:
    """True if every run gets its own pass. `weights`: number of frozen linear weights; `tokens`: of one run in a pass.

    A LoRA step takes 4 operations per weight and token: the forward pass, and the gradient of its input.
    """
    return 4 * weights * tokens / OPERATIONS_PER_SECOND[device] > layers * ISSUE_SECONDS_PER_LAYER[device]
