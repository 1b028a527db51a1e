"""GPUs of this machine as nvidia-smi lists them; the slices of a GPU in MIG mode are devices of their own."""

import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from p2p_dist.errors import UserError, user_error

_GPU = re.compile(r"GPU (\d+): .*\(UUID: (GPU-[^)]+)\)")
_SLICE = re.compile(r"\s+MIG \S*?(\d+)gb\S*\s+Device\s+\d+: \(UUID: (MIG-[^)]+)\)")

_NONE = ("", "-1", "NoDevFiles")
"""Names in CUDA_VISIBLE_DEVICES that are no device; the last one is Slurm's, in jobs without GPUs."""
_TIMEOUT = 30
"""Seconds that nvidia-smi has for an answer; a GPU that fell off the bus keeps it waiting without end."""
DEVICE_FILES = Path("/dev")
"""Folder of the files nvidia0, nvidia1, ... of GPUs."""


@dataclass(frozen=True)
class Gpu:
    """A device that a worker can be given: its name as in CUDA_VISIBLE_DEVICES, and its memory in GB."""

    name: str
    memory_gb: float
    uuid: str = ""
    """UUID of the GPU or slice; empty where nvidia-smi does not list it."""

    @property
    def is_slice(self) -> bool:
        """True for a slice of a GPU in MIG mode, of which CUDA shows a process one alone."""
        return self.name.startswith("MIG-")


def visible_gpus(environment: Mapping[str, str] = os.environ) -> list[Gpu]:
    """The devices that this process may use (planning needs no torch). Names in CUDA_VISIBLE_DEVICES that nvidia-smi
    does not list count as GPUs with the least memory of those that it lists.

    Raises UserError E419 for GPUs of which nvidia-smi tells nothing: a study would be planned for the CPU. Nothing is
    asked where CUDA_VISIBLE_DEVICES hides all GPUs.
    """
    visible = environment.get("CUDA_VISIBLE_DEVICES")
    names = [name.strip() for name in (visible or "").split(",") if name.strip() not in _NONE]
    if visible is not None and not names:
        return []
    present = _present()
    if visible is None or not present:
        return list(dict.fromkeys(present.values()))
    least = min(gpu.memory_gb for gpu in present.values())
    return [replace(present.get(name, Gpu(name, least)), name=name) for name in names]


def _present() -> dict[str, Gpu]:
    """Devices by every name that they have: index, UUID of the GPU, or UUID of the slice. Raises UserError E419."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        if list(DEVICE_FILES.glob("nvidia[0-9]*")):
            raise _unknown("nvidia-smi is not installed")
        return {}
    listed = _lines(tool, "-L")
    if not listed:
        return {}
    memories = _lines(tool, "--query-gpu=memory.total", "--format=csv,noheader,nounits")
    sizes = {str(index): float(line) * 2**20 / 1e9 for index, line in enumerate(memories) if line.strip().isdigit()}
    whole = _whole(listed)
    if unknown := [index for index, _ in whole if index not in sizes]:
        raise _unknown(f"nvidia-smi does not say how much memory GPU {unknown[0]} has")
    slices = [match for line in listed if (match := _SLICE.match(line))]
    if slices:
        sliced = (match.groups() for match in slices)
        return {uuid: Gpu(uuid, float(size) * 2**30 / 1e9, uuid) for size, uuid in sliced} | {
            uuid: Gpu(index, sizes[index], uuid) for index, uuid in whole
        }
    uuids = dict(whole)
    devices = {index: Gpu(index, size, uuids.get(index, "")) for index, size in sizes.items()}
    return devices | {uuid: devices[index] for index, uuid in whole}


def _whole(listed: list[str]) -> list[tuple[str, str]]:
    """Index and UUID of every GPU that is not cut into slices."""
    unsliced = []
    for line, following in zip(listed, [*listed[1:], ""], strict=True):
        if (gpu := _GPU.match(line)) and not _SLICE.match(following):
            unsliced.append((gpu[1], gpu[2]))
    return unsliced


def _lines(*command: str) -> list[str]:
    """Lines that nvidia-smi prints. Raises UserError E419 where it fails or does not end, on a machine with GPUs."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_TIMEOUT)
    except subprocess.TimeoutExpired as error:
        raise _unknown(f"nvidia-smi did not end in {_TIMEOUT} s") from error
    output = done.stdout + done.stderr
    if done.returncode == 0 or "No devices" in output or not list(DEVICE_FILES.glob("nvidia[0-9]*")):
        return done.stdout.splitlines() if done.returncode == 0 else []
    first = next((line.strip() for line in output.splitlines() if line.strip()), f"exit code {done.returncode}")
    raise _unknown(f"nvidia-smi failed: {first}")


def _unknown(why: str) -> UserError:
    """Error E419 for GPUs that cannot be listed."""
    fix = "repair the driver, or set CUDA_VISIBLE_DEVICES= to use the CPU"
    return user_error("E419", f"this machine has a GPU that cannot be listed: {why}", "/dev/nvidia*", fix)
