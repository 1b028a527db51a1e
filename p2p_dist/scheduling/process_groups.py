"""Build the process group of a job: command, environment, ranks. Pure."""

import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from p2p_dist.config.identity import canonical
from p2p_dist.planning.jobs import Job
from p2p_dist.planning.nodes import spread
from p2p_dist.planning.placement import Placement
from p2p_dist.results.rundir import RunDir
from p2p_dist.scheduling.backend import ProcessGroup, Service

WORKER = ("-m", "p2p_dist.worker")
PASSED_ON = ("P2P_DIST_DATA", "P2P_DIST_CACHE", "P2P_DIST_PLUGINS", "HF_HOME", "HF_HUB_OFFLINE", "PYTHONPATH")
"""Variables that ranks on other nodes need too. Tokens are not among them (`p2p_dist.scheduling.handover`)."""

PASSED_ON_PREFIXES = ("NCCL_", "TORCH_NCCL_", "GLOO_", "UCX_", "FI_")
"""Beginnings of the variables that tell ranks how to reach each other: interfaces, transports, time limits."""
MEETING = "P2P_DIST_MEETING"
"""Variable of the ranks of a group: file in which rank 0 writes the port that it opened (`training.ranks`)."""
ON_GPU = {
    "P2P_DIST_DEVICE": "cuda",
    # As nvidia-smi numbers GPUs, whose numbers and sizes plans and the quarantine have.
    "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
    # Widths change with every step; without it the allocator keeps blocks of each.
    "PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True",
    # cuDNN's attention builds a plan for every new shape, which takes up to a second.
    "TORCH_CUDNN_SDPA_DEPRIORITIZED": "1",
}
"""Variables of a worker that is given a GPU; the user's own count where they are set."""

SPIN = "10000"
"""GOMP_SPINCOUNT: polls of an OpenMP thread for work before it sleeps (libgomp's default is 300,000). On a shared
machine, threads that spin for long take the core from the one they wait for (`python -m bench.shared_cores`)."""


@dataclass(frozen=True)
class GroupSettings:
    """Settings that all groups of a study share: cores per worker, GPUs per rank (0 or 1), ranks per node,
    checkpoint interval in steps."""

    threads: int
    gpus: int
    ranks_per_node: int
    checkpoint_every: int
    allow_change: Sequence[str] = ()
    """Parts of a checkpoint's fingerprint that may differ when a training resumes from it."""
    warm: bool = False
    """Keep workers for further jobs of one rank; several ranks and ZeRO always get fresh processes."""
    deterministic: bool = True
    """Deterministic kernels alone."""
    cuda_graphs: bool = False
    """Repeat training passes as CUDA graphs."""


def build_process_group(
    folder: RunDir,
    job: Job,
    placement: Placement,
    settings: GroupSettings,
    log: Path,
    fence: Mapping[str, str],
    setting: str = "",
) -> ProcessGroup:
    """Build the group of one attempt; `setting` is the training setting of the plan, if the job has one. Options at
    the worker's defaults are left out of the command."""
    opening = (sys.executable, *WORKER)
    study = ("--study-dir", str(folder.path.resolve()))
    command: tuple[str, ...] = (
        *study,
        "--stages",
        ",".join(job.stages),
        "--checkpoint-every",
        str(settings.checkpoint_every),
    )
    command += tuple(word for key in settings.allow_change for word in ("--allow-change", key))
    if placement.zero:
        command += (
            "--zero",
            str(placement.zero),
            "--offload",
            placement.offload,
            *(("--hpz", str(placement.hpz)) if placement.hpz > 1 else ()),
        )
    if placement.gradient_checkpointing:
        command += ("--gradient-checkpointing",)
    if placement.accumulation > 1:
        command += ("--micro-batch", str(placement.micro_batch))
    if not settings.deterministic:
        command += ("--nondeterministic",)
    if settings.cuda_graphs:
        command += ("--cuda-graphs",)
    nodes, each = spread(placement.ranks, settings.ranks_per_node)
    # Without GPUs a worker has all cores of its slot, and its ranks there share them.
    threads = settings.threads if settings.gpus else max(1, settings.threads // each)
    environment = {
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
        # The same number of threads, and so the same order of sums, however busy the machine is.
        "MKL_DYNAMIC": "FALSE",
        # The same sums twice, which MKL promises in this mode alone; no slower, and the same bits as before.
        "MKL_CBWR": "AUTO",
        "GOMP_SPINCOUNT": SPIN,
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "PYTHONUNBUFFERED": "1",
        "PYTHONFAULTHANDLER": "1",
        "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
        **(ON_GPU if settings.gpus else {}),
        **_passed_on(os.environ),
        **({MEETING: str(log.with_name("meeting.json"))} if placement.ranks > 1 else {}),
        **fence,
    }
    stays = settings.warm and placement.ranks == 1 and not placement.zero
    service = Service((*opening, *study, "--serve"), command, fence, base_of(setting)) if stays else None
    return ProcessGroup((*opening, *command), log, threads, settings.gpus, environment, placement.ranks, nodes, service)


def _passed_on(environment: Mapping[str, str]) -> dict[str, str]:
    """Variables of this process that every rank needs, on whichever node."""
    return {
        name: value
        for name, value in environment.items()
        if name in PASSED_ON or name.startswith(PASSED_ON_PREFIXES) or (name in ON_GPU and name != "P2P_DIST_DEVICE")
    }


def base_of(setting: str) -> str:
    """The part of a training setting (`planning.plan.setting`) that decides which base is loaded; nothing for jobs
    without one."""
    if not setting:
        return ""
    model, train, *_ = json.loads(setting)
    return canonical([model, train["dtype"], str(train.get("quantization"))])
