"""Hardware that a study is planned for: this machine, or a file of `configs/clusters`."""

import os
from collections.abc import Collection
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator

from p2p_dist.config import yaml_strict
from p2p_dist.config.study import Positive, Strict
from p2p_dist.errors import user_error
from p2p_dist.planning.gpus import visible_gpus
from p2p_dist.planning.host_memory import host_memory
from p2p_dist.planning.nodes import spread

Count = Annotated[int, Field(ge=1)]

TFLOPS_PER_CORE = 0.2
"""Assumed where neither a GPU nor a throughput is given; 0.39 was measured on two cores with AMX."""


class LayoutSpec(Strict):
    """Parallel layout forced on every training of this cluster, in place of the planner's choice."""

    engine: Literal["plain", "deepspeed"]
    """plain: the whole base on every rank. deepspeed: sharded by ZeRO, one run per job."""
    ranks: Count = 1
    zero: Literal[1, 2, 3] | None = None
    """ZeRO stage of DeepSpeed."""
    offload: Literal["none", "optimizer", "all"] = "none"
    """State that DeepSpeed keeps in host memory; `all` moves the base too and needs ZeRO-3."""
    hpz: Count = 1
    """hpZ group size under ZeRO-3: ranks that hold one copy of the base among them, usually those of a node."""
    micro_batch: Count | None = None
    """Rows in one forward pass of a rank; null: its whole share of the global batch."""
    gradient_checkpointing: bool = False
    """Recompute decoder layers in the backward pass: less memory, more time, the same adapter."""

    @model_validator(mode="after")
    def _possible(self) -> "LayoutSpec":
        if self.engine == "plain" and (self.zero or self.offload != "none" or self.hpz > 1):
            raise ValueError("engine plain has no zero, offload or hpz; set engine: deepspeed")
        if self.engine == "deepspeed" and self.zero is None:
            raise ValueError("engine deepspeed needs zero: 1, 2 or 3")
        if self.zero != 3 and (self.offload == "all" or self.hpz > 1):
            raise ValueError("offload: all and hpz need zero: 3")
        if self.ranks % self.hpz:
            raise ValueError(f"hpz {self.hpz} does not divide ranks {self.ranks}")
        return self


class ClusterSpec(Strict):
    """A cluster of equal nodes. A node has a slot for each of its GPUs; without GPUs it has one, which takes all cores,
    or `slots`, which share them."""

    name: str
    description: str = ""
    nodes: Count = 1
    cpus_per_node: Count
    gpus_per_node: Annotated[int, Field(ge=0)] = 0
    gpu_memory_gb: Positive | None = None
    memory_gb: Positive | None = None
    """Host memory of a node, in GB."""
    slots: Count | None = None
    """Workers side by side on a node without GPUs, which share its cores and its memory; null: one."""
    tflops: Positive | None = None
    """Assumed training throughput of a GPU, or of a node without GPUs, in TFLOP/s; used for the plan's times."""
    mig_slices: bool = False
    """The GPUs are MIG slices. CUDA shows a process one slice alone, so that every training takes one rank."""
    deterministic: bool = True
    """Take deterministic kernels alone, so that equal runs are equal to the bit; false takes the fastest ones, and
    every `cost.json` says so."""
    cuda_graphs: bool = False
    """Repeat training passes of one form as CUDA graphs, for short steps, in which a GPU waits for the host; equal to
    the bit. Twice the memory of activations."""
    layout: LayoutSpec | None = None
    """Force a layout on every training; null lets the planner choose for each model."""

    @model_validator(mode="after")
    def _wide_enough(self) -> "ClusterSpec":
        if self.slots and self.gpus_per_node:
            raise ValueError("a node with GPUs has one slot for each: remove slots")
        if self.cuda_graphs and not self.gpus_per_node:
            raise ValueError("cuda_graphs is for nodes with GPUs: remove it, or set gpus_per_node")
        if self.mig_slices and not self.gpus_per_node:
            raise ValueError("mig_slices is for nodes with GPUs: remove it, or set gpus_per_node")
        if self.mig_slices and self.layout and self.layout.ranks > 1:
            raise ValueError("a process sees one MIG slice alone: set layout.ranks to 1, or remove layout")
        if (self.slots or 1) > 1 and self.layout and self.layout.ranks > 1:
            raise ValueError("ranks of a layout take all cores of a node: remove slots or layout")
        if self.layout and spread(self.layout.ranks, self.ranks_per_node)[0] > self.nodes:
            device = "GPU" if self.gpus_per_node else "core"
            raise ValueError(
                f"layout.ranks {self.layout.ranks}, evenly over {self.nodes} node(s) of {self.ranks_per_node} "
                f"{device}(s), one for each rank"
            )
        return self

    @property
    def slots_per_node(self) -> int:
        """Workers that run side by side on a node."""
        return self.gpus_per_node or self.slots or 1

    @property
    def ranks_per_node(self) -> int:
        """Ranks of a process group that a node takes: one per GPU, or one per core where there are none."""
        return self.gpus_per_node or self.cpus_per_node

    def to_json(self) -> dict[str, Any]:
        """The cluster as `plan --json` holds it. Its file's `slots` are those of a node and the ones of `--slots` are
        all of them, so both have names of their own."""
        fields = self.model_dump(exclude={"slots"})
        return {**fields, "slots_per_node": self.slots_per_node, "slots_in_all": self.nodes * self.slots_per_node}

    def slots_of(self, ranks: int) -> int:
        """Slots that a process group takes: one per rank, or one per node where its ranks share the cores of a slot."""
        return ranks if self.gpus_per_node else spread(ranks, self.cpus_per_node)[0]

    def threads_of(self, slots: int) -> int:
        """Cores of a rank where so many workers run side by side: those of its slot or, with GPUs, its GPU's share."""
        if self.gpus_per_node:
            return max(1, self.cpus_per_node // self.gpus_per_node)
        return max(1, self.cpus_per_node * self.nodes // slots)

    def side_by_side(self, slots: int | None) -> "ClusterSpec":
        """The cluster with this many workers in all where it has no GPUs; with GPUs, or for None, as it is. Raises
        UserError E107 where the nodes cannot have equally many, or a layout's ranks take all cores."""
        if slots is None or self.gpus_per_node or slots < self.nodes:
            return self
        each, rest = divmod(slots, self.nodes)
        if rest:
            fix = f"ask for {each * self.nodes} or {(each + 1) * self.nodes}"
            raise user_error("E107", f"{slots} slots on {self.nodes} equal nodes", "--slots", fix)
        if each > 1 and self.layout and self.layout.ranks > 1:
            what = f"{each} slots on a node whose cores the {self.layout.ranks} ranks of its layout share"
            raise user_error("E107", what, "--slots", "leave out --slots")
        return self.model_copy(update={"slots": each})


def read_cluster(path: Path) -> ClusterSpec:
    """Read a cluster file. Raises UserError E107 for an invalid one."""
    document = yaml_strict.read(path)
    try:
        return ClusterSpec.model_validate(document.data)
    except ValidationError as error:
        first = error.errors()[0]
        fix = "correct it as in the shipped files (`p2p-dist list clusters`)"
        raise user_error("E107", first["msg"], document.where(first["loc"]), fix) from error


def invented(like: ClusterSpec, nodes: int | None, gpus_per_node: int | None) -> ClusterSpec:
    """A copy of `like` with other numbers of nodes and GPUs, or `like` itself. If GPUs are added to a cluster without
    any, their memory and throughput are unknown. Raises UserError E107 where a forced layout no longer fits."""
    if nodes is None and gpus_per_node is None:
        return like
    fields = {**like.model_dump(), "name": f"an invented cluster like {like.name}", "nodes": nodes or like.nodes}
    if gpus_per_node is not None:
        fields["gpus_per_node"] = gpus_per_node
    if bool(fields["gpus_per_node"]) != bool(like.gpus_per_node):
        fields |= {"gpu_memory_gb": None, "tflops": None, "slots": None, "mig_slices": False}
    try:
        return ClusterSpec.model_validate(fields)
    except ValidationError as error:
        what, fix = error.errors()[0]["msg"], "choose numbers that the layout of the cluster fits, or another cluster"
        raise user_error("E107", what, "--nodes and --gpus-per-node", fix) from error


def this_machine() -> ClusterSpec:
    """This machine: the cores and memory this process may use, and the GPUs listed by nvidia-smi (planning needs no
    torch)."""
    gpus = visible_gpus()
    memories = [gpu.memory_gb for gpu in gpus]
    cores = len(os.sched_getaffinity(0))
    return ClusterSpec(
        name="this machine",
        cpus_per_node=cores,
        gpus_per_node=len(memories),
        gpu_memory_gb=min(memories) if memories else None,
        mig_slices=any(gpu.is_slice for gpu in gpus),
        tflops=None if memories else cores * core_tflops(cpu_flags()),
        memory_gb=host_memory() / 1e9,
    )


def core_tflops(flags: Collection[str]) -> float:
    """Assumed throughput of a core in TFLOP/s, by the instructions of its CPU. Measured in trainings: 0.2 in bfloat16
    with AMX and 0.1 with AVX-512 alone, 0.03 in float32 with AVX2; not measured: 0.06 in float32 with AVX-512."""
    if "amx_bf16" in flags:
        return TFLOPS_PER_CORE
    if "avx512_bf16" in flags:
        return 0.1
    return 0.06 if "avx512f" in flags else 0.03


def cpu_flags() -> set[str]:
    """Instruction sets of this machine's CPU as Linux lists them; empty where they cannot be read."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return set()
    return {flag for line in lines if line.startswith("flags") for flag in line.partition(":")[2].split()}
