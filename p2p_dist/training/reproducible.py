"""Settings of torch under which equal work gives equal bits."""

import os
import re

import torch

from p2p_dist.errors import UserError, user_error

_REFUSED = re.compile(r"(\S+) does not have a deterministic implementation")


def set_deterministic(enabled: bool = True) -> None:
    """Choose deterministic kernels. On a GPU an operation that has none is refused: only then are the backward passes
    of attention deterministic too. On CPUs torch warns.

    Not `enabled`, the fastest kernels are taken, and two runs of the same settings differ in their last bits.
    """
    fix_workspace()
    torch.use_deterministic_algorithms(enabled, warn_only=not torch.cuda.is_available())
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # nothing reads it


def fix_workspace() -> None:
    """Give cuBLAS the workspace that it needs for equal bits. torch asks once, at the first product of a process."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


def refusal_of(error: BaseException) -> UserError | None:
    """Error E319 for an operation that has no deterministic kernel; None for any other error."""
    refused = _REFUSED.search(str(error))
    if refused is None:
        return None
    return user_error(
        "E319",
        f"the operation {refused[1]} has no deterministic kernel on this GPU",
        "the model's family",
        "choose another model, or set deterministic: false in a cluster file (docs/training.md)",
    )
