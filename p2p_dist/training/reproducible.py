"""Settings of torch under which equal work gives equal bits."""

import torch


def set_deterministic() -> None:
    """Choose deterministic kernels where there are any; torch warns where there are none."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # nothing reads it
