"""Placement of one job: GPUs, ZeRO stage, offload, micro-batch and cohort, or the reason why nothing fits.

One job runs per GPU while the base and the activations of one row fit, because spreading 32 short rows over GPUs gains
nothing and a sharded frozen base is gathered twice per step. Where the activations of a single row do not fit, layers
are recomputed in the backward pass (1.5 times the time). ZeRO-3 is for a base that does not fit, offloading for when
even that does not. The micro-batch divides the global batch. None of this changes a result's identity.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

from p2p_dist.config.model import ShapeSpec
from p2p_dist.config.study import TrainSpec
from p2p_dist.planning.cluster import ClusterSpec, LayoutSpec
from p2p_dist.planning.inference import USABLE, inference_memory
from p2p_dist.planning.memory import GIB, STATES, Memory, Offload, Split, Work, checkpoint_bytes, estimate
from p2p_dist.planning.nodes import spread
from p2p_dist.planning.passes import Device


@dataclass(frozen=True)
class Placement:
    """Execution of one training; no part of its identity. `memory` is None for a model of unknown shape."""

    ranks: int
    zero: int
    offload: Offload
    micro_batch: int
    accumulation: int
    cohort: int
    memory: Memory | None
    hpz: int = 1
    gradient_checkpointing: bool = False

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "memory": self.memory.in_gib() if self.memory else None}


@dataclass(frozen=True)
class Misfit:
    """Reason why a training cannot run on a cluster, and the nearest change with which it could."""

    reason: str
    nearest: str


def place(
    shape: ShapeSpec | None,
    train: TrainSpec,
    cohort: int,
    cluster: ClusterSpec,
    images: int = 0,
    answer: int = 0,
    jobs: int | None = None,
) -> Placement | Misfit:
    """Return the first candidate that fits, simplest first; `cohort` is the maximum cohort size, `images` the number of
    images of the study's rows, `answer` the most tokens of a text answer that its models write (0: they write none),
    `jobs` the number of trainings that may run side by side (None: as many as have room). All weights are trained by
    one run at a time."""
    cohort = 1 if train.is_full else cohort
    if cluster.mig_slices and cluster.layout and cluster.layout.ranks > 1:
        return Misfit(
            f"is to be split over {cluster.layout.ranks} ranks, and a process sees one MIG slice alone",
            "a layout with one rank, or whole GPUs",
        )
    if shape is None:
        split, rows, most = (
            _forced(train, cohort, cluster.layout) if cluster.layout else (Split(), train.global_batch, cohort)
        )
        accumulation, again = (
            -(-train.global_batch // (rows * split.ranks)),
            bool(cluster.layout and cluster.layout.gradient_checkpointing),
        )
        return Placement(split.ranks, split.zero, split.offload, rows, accumulation, most, None, split.hpz, again)
    if shape.vision is not None and cluster.layout and cluster.layout.zero == 3:
        return Misfit("has a vision tower, which is not built for ZeRO-3", "a layout with ZeRO-2 or without ZeRO")
    if answer and cluster.layout and cluster.layout.zero == 3:
        return Misfit("writes text answers, which ZeRO-3 cannot do", "a layout with ZeRO-2 or without ZeRO")
    budget = device_memory(cluster)
    device: Device = "cuda" if cluster.gpus_per_node else "cpu"
    tried = []
    for work, split in _candidates(shape, train, cohort, cluster, images):
        if answer and split.zero == 3:
            continue  # whose ranks write no text
        memory = _peak(work, split, device, budget, answer)
        if (budget is None or memory.total <= USABLE * budget) and _fits_host(work, split, cluster, jobs):
            accumulation = -(-train.global_batch // (work.rows * split.ranks))
            return Placement(
                split.ranks,
                split.zero,
                split.offload,
                work.rows,
                accumulation,
                work.cohort,
                memory,
                split.hpz,
                work.recompute,
            )
        tried.append((work, split, memory))
    fitting = [each for each in tried if budget is None or each[2].total <= USABLE * budget]
    if fitting:
        return _host_misfit(
            min(host_bytes(work, split, jobs_on_a_node(split, cluster, jobs)) for work, split, _ in fitting), cluster
        )
    assert budget is not None
    return _misfit(*min(tried, key=lambda candidate: candidate[2].total), budget, cluster, device, answer)


def _peak(work: Work, split: Split, device: Device, budget: float | None, answer: int) -> Memory:
    """Memory of the training, or of the evaluation behind it where that writes text on a GPU and takes more."""
    training = estimate(work, split, device)
    if not answer or device == "cpu":
        return training
    evaluation = inference_memory(work, split, device, budget, work.tokens + answer)
    return max(training, evaluation, key=lambda memory: memory.total)


def host_bytes(work: Work, split: Split, jobs: int = 1) -> int:
    """Bytes of a node's host where `jobs` run side by side. Each takes for ZeRO-3 the whole base, which its main rank
    reads and cuts: jobs of a study begin together and read in step. Training in all weights adds the optimiser's
    offloaded states, which stay, and one checkpoint, since jobs write theirs at different times. Offloaded weights take
    their places one by one."""
    whole = work.base_bytes if split.zero == 3 else 0
    if not work.full:
        return jobs * whole
    count = work.shape.parameters
    return jobs * (whole + (0 if split.offload == "none" else (STATES + 1) * 4 * count)) + checkpoint_bytes(count)


def jobs_on_a_node(split: Split, cluster: ClusterSpec, jobs: int | None) -> int:
    """Jobs that run side by side on a node with GPUs: as many as have room there, at most `jobs`."""
    room = max(1, cluster.gpus_per_node // split.ranks)
    return room if jobs is None else max(1, min(room, jobs))


def _fits_host(work: Work, split: Split, cluster: ClusterSpec, jobs: int | None) -> bool:
    """True where the host's memory suffices, or is not known."""
    if cluster.memory_gb is None or not cluster.gpus_per_node:
        return True
    return host_bytes(work, split, jobs_on_a_node(split, cluster, jobs)) <= USABLE * cluster.memory_gb * 1e9


def _host_misfit(bytes_: int, cluster: ClusterSpec) -> Misfit:
    assert cluster.memory_gb is not None
    usable = USABLE * cluster.memory_gb * 1e9 / GIB
    reason = (
        f"needs {bytes_ / GIB:.1f} GiB of a node's memory to read the base; {cluster.name} has {usable:.1f} GiB usable"
    )
    return Misfit(reason, f"a node with {bytes_ / USABLE / 1e9:.0f} GB of memory")


def device_memory(cluster: ClusterSpec) -> float | None:
    """Memory of one worker in bytes: a GPU's, or its share of the node's. None when the cluster file gives none."""
    if cluster.gpus_per_node:
        return cluster.gpu_memory_gb * 1e9 if cluster.gpu_memory_gb else None
    ranks = spread(cluster.layout.ranks, cluster.ranks_per_node)[1] if cluster.layout else 1
    return cluster.memory_gb * 1e9 / (ranks * cluster.slots_per_node) if cluster.memory_gb else None


def _candidates(
    shape: ShapeSpec, train: TrainSpec, cohort: int, cluster: ClusterSpec, images: int
) -> Iterator[tuple[Work, Split]]:
    """Candidates from the whole cohort with the whole batch on one device to one row with all state sharded and
    offloaded."""
    quantized = train.quantization is not None
    work = Work(
        shape,
        train.lora,
        weight_bytes(train, cluster),
        cohort,
        train.global_batch,
        train.max_length,
        quantized=quantized,
        full=train.is_full,
        cuda_graphs=cluster.cuda_graphs,
        global_rows=train.global_batch,
        images=images,
        image_tokens=train.image_tokens if images else 0,
    )
    if cluster.layout:
        split, rows, most = _forced(train, cohort, cluster.layout)
        work = replace(work, rows=rows, recompute=cluster.layout.gradient_checkpointing)
        yield from ((replace(work, cohort=size), split) for size in _halves(most))
        return
    for size in _halves(cohort):
        yield replace(work, cohort=size), Split()
    work = replace(work, cohort=1)
    yield from ((again, Split()) for again in _shrinking(work, train.global_batch))
    if quantized or shape.vision is not None:
        return  # a base in 4 bits is not sharded, nor one with a vision tower
    for split in _splits(cluster, train.is_full):
        yield from ((again, split) for again in _shrinking(work, max(1, train.global_batch // split.ranks)))


def _splits(cluster: ClusterSpec, full: bool) -> Iterator[Split]:
    """Shardings to try. A frozen base is sharded by ZeRO-3. Where all weights are trained, ZeRO-2 shards most of the
    memory and gathers no weights, and one GPU may leave the optimiser's states to its host."""
    counts = _rank_counts(cluster)
    if full:
        yield from (Split(ranks, 2) for ranks in counts)
    yield from (Split(ranks, 3) for ranks in counts)
    if full and cluster.gpus_per_node:
        yield from (Split(ranks, 2, "optimizer") for ranks in (1, *counts))
    yield from (Split(ranks, 3, "all") for ranks in counts)


def _shrinking(work: Work, rows: int) -> Iterator[Work]:
    """Smaller and smaller micro-batches, then the same with gradient checkpointing."""
    for recompute in (False, True):
        for few in _halves(rows):
            yield replace(work, rows=few, recompute=recompute)


def _forced(train: TrainSpec, cohort: int, layout: LayoutSpec) -> tuple[Split, int, int]:
    """The layout forced by a cluster file, its micro-batch, and its maximum cohort size."""
    rows = min(layout.micro_batch or train.global_batch, -(-train.global_batch // layout.ranks))
    return Split(layout.ranks, layout.zero or 0, layout.offload, layout.hpz), rows, 1 if layout.zero else cohort


def _rank_counts(cluster: ClusterSpec) -> list[int]:
    """Rank counts to try: 2, 4, ... GPUs of a node, then whole nodes. None for MIG slices, of which a process sees one
    alone."""
    if cluster.mig_slices:
        return []
    inside = [2**power for power in range(1, 8) if 2**power < cluster.gpus_per_node]
    nodes = [2**power for power in range(8) if 2**power < cluster.nodes] + [cluster.nodes]
    whole_nodes = [cluster.gpus_per_node * count for count in nodes]
    return [count for count in [*inside, *whole_nodes] if count > 1]


def _halves(most: int) -> list[int]:
    """Halving sequence: most, most / 2, ..., 1."""
    sizes = []
    while most >= 1:
        sizes.append(most)
        most //= 2
    return sizes


def weight_bytes(train: TrainSpec, cluster: ClusterSpec) -> int:
    """Bytes per weight: 2 for bfloat16, 4 for float32. `auto` is bfloat16 on GPUs; on CPUs, where it may be either, it
    counts as float32."""
    if train.dtype == "auto":
        return 2 if cluster.gpus_per_node else 4
    return {"bfloat16": 2, "float32": 4}[train.dtype]


def _misfit(
    work: Work, split: Split, memory: Memory, budget: float, cluster: ClusterSpec, device: Device, answer: int
) -> Misfit:
    """Report the smallest candidate and what would make it fit: more memory, or shorter rows."""
    unit = "worker" if device == "cpu" else "MIG slice" if cluster.mig_slices else "GPU"
    alone = "; a process sees one MIG slice alone, so that nothing is split over several" if cluster.mig_slices else ""
    sharded = f"ZeRO-{split.zero} over {split.ranks} GPUs, offload {split.offload}, " if split.zero else ""
    sharded += "gradient checkpointing, " if work.recompute else ""
    for_what = f"text answers of {answer} tokens to rows" if memory.cache else f"micro-batch {work.rows}"
    reason = (
        f"needs at least {memory.total / GIB:.1f} GiB per {unit} ({sharded}{for_what} of "
        f"{work.tokens} tokens); {cluster.name} has {USABLE * budget / GIB:.1f} GiB usable{alone}"
    )
    if answer and not (split.zero or work.quantized) and _rank_counts(cluster):
        reason += "; ZeRO-3, which would share it, writes no text answers"
    shorter = next(
        (
            tokens
            for tokens in _halves(work.tokens)
            if _peak(replace(work, tokens=tokens), split, device, budget, answer).total <= USABLE * budget
        ),
        None,
    )
    more = f"a {unit} with {memory.total / USABLE / 1e9:.0f} GB" + (", or whole GPUs" if cluster.mig_slices else "")
    return Misfit(
        reason, f"{more}, or train.max_length={shorter}" if shorter and shorter >= 8 + work.image_tokens else more
    )
