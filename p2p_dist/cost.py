"""What a stage cost on this machine: kept beside its result, never in it."""

import platform
import resource
import time
from typing import Any

import torch

from p2p_dist.results.provenance import code_digest


def cost_of(device: torch.device, dtype: torch.dtype, seconds: float, ranks: int = 1) -> dict[str, Any]:
    """Seconds, GPU-seconds over all ranks, and the peak memory (MiB) of the rank that asks."""
    cuda = device.type == "cuda"
    peak = torch.cuda.max_memory_allocated() / 2**20 if cuda else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {
        "started": round(time.time() - seconds, 3),
        "seconds": round(seconds, 3),
        "gpu_seconds": round(seconds * ranks, 3) if cuda else 0.0,
        "host": platform.node(),
        "code": code_digest(),
        "peak_memory_mib": round(peak, 1),
        "device": torch.cuda.get_device_name() if cuda else platform.processor() or platform.machine(),
        "ranks": ranks,
        "threads": torch.get_num_threads(),
        "dtype": str(dtype).removeprefix("torch."),
    }
