"""GPUs of this machine as nvidia-smi lists them; the slices of a GPU in MIG mode are devices of their own."""

import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass

_GPU = re.compile(r"GPU (\d+): .*\(UUID: (GPU-[^)]+)\)")
_SLICE = re.compile(r"\s+MIG \S*?(\d+)gb\S*\s+Device\s+\d+: \(UUID: (MIG-[^)]+)\)")


@dataclass(frozen=True)
class Gpu:
    """A device that a worker can be given: its name as in CUDA_VISIBLE_DEVICES, and its memory in GB."""

    name: str
    memory_gb: float


def visible_gpus(environment: Mapping[str, str] = os.environ) -> list[Gpu]:
    """The devices that this process may use (planning needs no torch). Names in CUDA_VISIBLE_DEVICES that nvidia-smi
    does not list count as GPUs with the least memory of those that it lists."""
    present = _present()
    visible = environment.get("CUDA_VISIBLE_DEVICES")
    if visible is None or not present:
        return list(dict.fromkeys(present.values()))
    names = [name.strip() for name in visible.split(",") if name.strip() not in ("", "-1")]
    least = min(gpu.memory_gb for gpu in present.values())
    return [Gpu(name, present[name].memory_gb if name in present else least) for name in names]


def _present() -> dict[str, Gpu]:
    """Devices by every name that they have: index, UUID of the GPU, or UUID of the slice."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return {}
    listed = _lines(tool, "-L")
    memories = _lines(tool, "--query-gpu=memory.total", "--format=csv,noheader,nounits")
    sizes = [float(line) * 2**20 / 1e9 for line in memories if line.strip().isdigit()]
    slices = [match for line in listed if (match := _SLICE.match(line))]
    if slices:
        return {uuid: Gpu(uuid, float(size) * 2**30 / 1e9) for size, uuid in (match.groups() for match in slices)} | {
            uuid: Gpu(index, sizes[int(index)]) for index, uuid in _whole(listed) if int(index) < len(sizes)
        }
    devices = {str(index): Gpu(str(index), size) for index, size in enumerate(sizes)}
    return devices | {uuid: devices[index] for index, uuid in _whole(listed) if index in devices}


def _whole(listed: list[str]) -> list[tuple[str, str]]:
    """Index and UUID of every GPU that is not cut into slices."""
    unsliced = []
    for line, following in zip(listed, [*listed[1:], ""], strict=True):
        if (gpu := _GPU.match(line)) and not _SLICE.match(following):
            unsliced.append((gpu[1], gpu[2]))
    return unsliced


def _lines(*command: str) -> list[str]:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    return done.stdout.splitlines()
