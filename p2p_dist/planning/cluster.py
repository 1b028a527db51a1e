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
    memory_gb: Positive | None = None
    """Host memory of a node."""
    tflops: Positive | None = None
    """What a GPU, or a node without GPUs, reaches in training: an assumption for the plan's times."""

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
    """The cores and memory this process may use and the GPUs that nvidia-smi lists (so that planning needs no torch)."""
    memories = _gpu_memories()
    return ClusterSpec(
        name="this machine",
        cpus_per_node=len(os.sched_getaffinity(0)),
        gpus_per_node=len(memories),
        gpu_memory_gb=min(memories) if memories else None,
        memory_gb=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9,
    )


def _gpu_memories() -> list[float]:
    """Memory of each GPU that may be used, in GB."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return []
    query = [tool, "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    listed = subprocess.run(query, capture_output=True, text=True, check=False, timeout=30)
    memories = [float(line) * 2**20 / 1e9 for line in listed.stdout.splitlines() if line.strip().isdigit()]
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return memories
    return memories[: len([device for device in visible.split(",") if device.strip() not in ("", "-1")])]
