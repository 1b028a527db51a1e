"""The hardware a study is planned for: this machine, or a file of `configs/clusters`."""

import os
import shutil
import subprocess
from pathlib import Path
from typing import Annotated

from pydantic import Field, ValidationError

from p2p_dist.errors import user_error
from p2p_dist.spec import yaml_strict
from p2p_dist.spec.study import Positive, Strict

Count = Annotated[int, Field(ge=1)]


class ClusterSpec(Strict):
    """Equal nodes. On a node without GPUs one worker takes all cores, since one training uses them all."""

    name: str
    description: str = ""
    nodes: Count = 1
    cpus_per_node: Count
    gpus_per_node: Annotated[int, Field(ge=0)] = 0
    gpu_memory_gb: Positive | None = None

    @property
    def slots_per_node(self) -> int:
        """How many workers run side by side on a node."""
        return max(1, self.gpus_per_node)


def read_cluster(path: Path) -> ClusterSpec:
    """A cluster file. Raises UserError."""
    document = yaml_strict.read(path)
    try:
        return ClusterSpec.model_validate(document.data)
    except ValidationError as error:
        first = error.errors()[0]
        raise user_error("E107", first["msg"], document.where(first["loc"])) from error


def this_machine() -> ClusterSpec:
    """The cores this process may use and the GPUs that nvidia-smi lists (so that planning needs no torch)."""
    return ClusterSpec(name="this machine", cpus_per_node=len(os.sched_getaffinity(0)), gpus_per_node=_gpus())


def _gpus() -> int:
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return len([device for device in visible.split(",") if device.strip() not in ("", "-1")])
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return 0
    listed = subprocess.run([tool, "--list-gpus"], capture_output=True, text=True, check=False, timeout=30)
    return sum(line.startswith("GPU ") for line in listed.stdout.splitlines())
