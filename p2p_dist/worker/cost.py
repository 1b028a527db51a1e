"""Cost of a stage on this machine: written beside its result, never into it."""

import contextlib
import platform
import resource
import time
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

import torch

from p2p_dist.results.provenance import code_digest
from p2p_dist.training.ranks import Ranks
from p2p_dist.worker import energy

Cost = Mapping[str, object]
"""Content of `cost.json`."""


class Meter:
    """Starts with the work of a stage and is read at its end, by all ranks of the process group."""

    def __init__(self, device: torch.device, ranks: Ranks | None = None):
        self.device, self.ranks = device, ranks or Ranks()
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)  # an evaluation's peak is not that of the training before it
        self.started, self.before = time.perf_counter(), _counters(device)

    def read(self, dtype: torch.dtype, earlier: float = 0.0) -> Cost:
        """Seconds, and GPU-seconds over all ranks, both with the seconds of `earlier` attempts; of this attempt alone,
        joules of all devices where every rank has a counter, and the peak memory (MiB) of this rank."""
        seconds, cuda = time.perf_counter() - self.started, self.device.type == "cuda"
        joules = energy.total(self.ranks.gather_json(self._joules(seconds)))
        peak = (
            torch.cuda.max_memory_allocated() / 2**20
            if cuda
            else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        )
        return {
            "started": round(time.time() - seconds, 3),
            "seconds": round(earlier + seconds, 3),
            "gpu_seconds": round((earlier + seconds) * self.ranks.world, 3) if cuda else 0.0,
            **({} if joules is None else {"energy_joules": round(joules, 1)}),
            "host": platform.node(),
            "code": code_digest(),
            "peak_memory_mib": round(peak, 1),
            "device": torch.cuda.get_device_name() if cuda else cpu_kind(),
            "ranks": self.ranks.world,
            "threads": torch.get_num_threads(),
            "dtype": str(dtype).removeprefix("torch."),
        }

    def _joules(self, seconds: float) -> dict[str, float] | None:
        used = energy.used(self.before, _counters(self.device), seconds)
        return None if used is None else {f"{platform.node()}/{name}": joules for name, joules in used.items()}


@lru_cache
def cpu_kind() -> str:
    """Model of the CPU with the instructions that decide how sums are rounded, such as `AMD EPYC 7763, AVX2`."""
    model = platform.processor() or platform.machine()
    flags: set[str] = set()
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                model = value.strip()
            elif key.strip() == "flags":
                flags = set(value.split())
                break
    matrix = [name for flag, name in (("avx512_bf16", "bfloat16"), ("amx_bf16", "AMX")) if flag in flags]
    return ", ".join([model, torch.backends.cpu.get_cpu_capability(), *matrix])


def _counters(device: torch.device) -> dict[str, energy.Reading]:
    return (
        energy.gpu(str(torch.cuda.get_device_properties(device).uuid)) if device.type == "cuda" else energy.packages()
    )
