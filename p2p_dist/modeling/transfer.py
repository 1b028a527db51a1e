"""Copies from the host's memory to a device."""

import torch


def sent(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """A host tensor on a device, or on its way there: a GPU copies pinned memory while the host continues."""
    if device.type == "cpu" or tensor.device.type != "cpu":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)
