"""Utilisation of a worker's GPU as the driver reports it, for progress lines: polled in the background."""

import shutil
import subprocess
import time
from collections.abc import Sequence

import torch

ASK_SECONDS = 10.0


class GpuUse:
    """Runs `command` (None: nothing to ask) beside the training and remembers its last answer."""

    def __init__(self, command: Sequence[str] | None):
        self.command = command
        self._asked: subprocess.Popen[str] | None = None
        self._when = -ASK_SECONDS
        self._last: dict[str, int] = {}

    @classmethod
    def of(cls, device: torch.device) -> "GpuUse":
        """Of one GPU, through nvidia-smi; of a device without that tool nothing is known."""
        tool = shutil.which("nvidia-smi") if device.type == "cuda" else None
        if tool is None:
            return cls(None)
        gpu = f"--id=GPU-{torch.cuda.get_device_properties(device).uuid}"
        return cls([tool, gpu, "--query-gpu=utilization.gpu,memory.used", "--format=csv,noheader,nounits"])

    def to_dict(self) -> dict[str, int]:
        """`gpu_percent` (time with a kernel running) and `gpu_mib` (memory, of everybody on it) when last heard of;
        empty before."""
        if self.command is None:
            return {}
        if self._asked is not None and self._asked.poll() is not None:
            answer, _ = self._asked.communicate()
            self._last = _parsed(answer)
            self._asked = None
        if self._asked is None and time.monotonic() - self._when >= ASK_SECONDS:
            self._when = time.monotonic()
            self._asked = subprocess.Popen(
                self.command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
            )
        return self._last


def _parsed(answer: str) -> dict[str, int]:
    """`87, 12000` as facts. What the driver does not know (`[N/A]`) is left out."""
    values = [value.strip() for value in answer.split(",")]
    return {
        name: int(value) for name, value in zip(("gpu_percent", "gpu_mib"), values, strict=False) if value.isdigit()
    }
