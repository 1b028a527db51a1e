"""Memory model: peak memory of one rank of a training, term by term, from the shape of the model alone.

The terms follow this package's engine: a frozen base and K stacked adapters, or weights that are all trained, packed
rows without padding, logits at the answer positions only. They are derived from the tensors that autograd keeps per
layer; `bench/memory_model.py` compares them with measured peaks. DeepSpeed's estimators do not apply: they count every
weight as trainable and no activation.
"""

from dataclasses import asdict, dataclass
from typing import Literal

from p2p_dist.config.model import ShapeSpec
from p2p_dist.config.study import LoraSpec
from p2p_dist.planning.passes import Device, apart
from p2p_dist.planning.row_tokens import TOKENS_PER_ROW

Offload = Literal["none", "optimizer", "all"]

GIB = 2**30
GATHERED_ELEMENTS = 1_000_000_000
"""Number of weights that ZeRO-3 keeps gathered at once (DeepSpeed's `stage3_max_live_parameters`)."""
PREFETCHED_ELEMENTS = 50_000_000
"""Number of weights that ZeRO-3 prefetches (`stage3_prefetch_bucket_size`)."""
RUNTIME = {"cuda": 1_200_000_000, "cpu": 700_000_000}
"""Assumed bytes, not measured: CUDA context, kernels and libraries on a GPU; the imported libraries on a CPU."""
BUCKET_ELEMENTS = 200_000_000
"""Number of gradients that DeepSpeed sums over ranks at a time, in full-parameter fine-tuning."""
STATES = 3
"""fp32 numbers that the optimiser holds for each trained number: its master and two moments."""
NF4_BYTES = 0.5 + 1 / 64
"""Bytes per weight: 4 bits and the scales of blocks of 64, themselves quantised to 8 bits (arXiv 2305.14314)."""
LOWER_STATES_BYTES = 2**30
"""Bytes of the states below the adapters that a training keeps (`train.lora.layers`, `training.lower_states`)."""
_FLOAT = 4


@dataclass(frozen=True)
class Memory:
    """Bytes on one device, term by term."""

    base: int
    adapter: int
    optimizer: int
    activations: int
    logits: int
    gather: int
    runtime: int
    images: int = 0
    """Features of the images of all rows, which a vision tower has read."""
    gradients: int = 0
    """Of full-parameter fine-tuning; those of adapters are counted with the adapters."""
    cache: int = 0
    """Keys and values of text answers (`planning.inference`)."""

    @property
    def total(self) -> int:
        return sum(asdict(self).values())

    def in_gib(self) -> dict[str, float]:
        """All terms and the total, in GiB."""
        return {name: round(value / GIB, 2) for name, value in {**asdict(self), "total": self.total}.items()}


@dataclass(frozen=True)
class Work:
    """One step of one rank: K runs of `rows` rows with at most `tokens` tokens each, `answers` of which carry loss."""

    shape: ShapeSpec
    lora: LoraSpec
    bytes_per_weight: int
    cohort: int
    rows: int
    tokens: int
    answers: int = 2
    quantized: bool = False
    """True if the linear layers of the base are in 4 bits (QLoRA)."""
    recompute: bool = False
    """Gradient checkpointing: blocks keep only their input and are recomputed one at a time."""
    full: bool = False
    """Full-parameter fine-tuning: every weight is trained, and there is no adapter."""
    global_rows: int | None = None
    """Rows of a run's global batch, for all of which dropout is drawn at the begin of a step; None for `rows`."""
    cuda_graphs: bool = False
    """Passes are repeated as CUDA graphs: while a form of batches is proven, a plain pass stands beside its graph."""
    images: int = 0
    """Images of the rows."""
    image_tokens: int = 0
    """Tokens of an image, a part of `tokens`."""
    mean_tokens: int = TOKENS_PER_ROW
    """Mean tokens of a row beside its image: short passes take all runs of a cohort at once."""

    @property
    def base_bytes(self) -> int:
        """Bytes of the frozen weights."""
        if not self.quantized:
            return self.shape.parameters * self.bytes_per_weight
        rest = self.shape.parameters - self.shape.linear_parameters
        return round(self.shape.linear_parameters * NF4_BYTES) + rest * self.bytes_per_weight

    @property
    def trained(self) -> frozenset[str]:
        """Linear layers of a block that are trained, or have an adapter."""
        names = linear_layers(self.shape)
        return frozenset(names if self.full else (name for name in names if _is_target(name, self.lora)))

    def at_once(self, device: Device) -> int:
        """Number of runs that go through the base in one pass."""
        typical = self.rows * min(self.tokens, self.mean_tokens + self.image_tokens)
        return 1 if apart(self.shape.linear_parameters, self.shape.layers, typical, device) else self.cohort

    def packed_tokens(self, device: Device) -> int:
        """Upper bound of the tokens in one pass: packed widths are at most the next multiple of 64."""
        return self.at_once(device) * -(-self.rows * self.tokens // 64) * 64


@dataclass(frozen=True)
class Split:
    """Sharding of a model over ranks."""

    ranks: int = 1
    zero: int = 0
    offload: Offload = "none"
    hpz: int = 1


def estimate(work: Work, split: Split, device: Device) -> Memory:
    """Peak memory of one rank, reached where the backward pass begins."""
    if work.full:
        return _of_all_weights(work, split, device)
    shape, width = work.shape, work.bytes_per_weight
    adapter = work.cohort * adapter_parameters(shape, work.lora)
    sharded = split.ranks if split.zero else 1
    states = 0 if split.offload != "none" else adapter * (STATES + 1) * _FLOAT // sharded
    base, gather = _base_and_gathered(work, split)
    gradients = adapter * width // (split.ranks if split.zero >= 2 else 1)
    passes = 2 if work.cuda_graphs and split.zero == 0 else 1
    return Memory(
        base=base,
        adapter=adapter * width + gradients,
        optimizer=states,
        activations=passes * activations(work, device, split.zero),
        logits=passes * logits(work, device, split.zero),
        gather=gather,
        runtime=RUNTIME[device],
        images=image_features(work),
    )


def image_features(work: Work) -> int:
    """Bytes of the features of all images, twice: they are joined with those that come in."""
    return 2 * work.images * work.image_tokens * work.shape.hidden * work.bytes_per_weight


def _base_and_gathered(work: Work, split: Split) -> tuple[int, int]:
    """Bytes of a rank's part of the weights, and of those that ZeRO-3 gathers for a while."""
    base = work.base_bytes
    if split.zero < 3:
        return base, 0
    gather = min(base, (GATHERED_ELEMENTS + PREFETCHED_ELEMENTS) * work.bytes_per_weight)
    # hpZ keeps a second copy, sharded over fewer ranks.
    copies = base // split.ranks + (base // split.hpz if split.hpz > 1 else 0)
    return 0 if split.offload == "all" else copies, gather


def _of_all_weights(work: Work, split: Split, device: Device) -> Memory:
    """Peak memory of one rank in full-parameter fine-tuning, in the backward pass or in the optimiser's step.

    A rank holds for each weight the weight and its gradient in the compute type, and in fp32 the master and two
    moments. The step adds, where activations were, an fp32 copy of the gradient, and without DeepSpeed its clipped
    copy. ZeRO shards all of this but the weights (1: and their gradients; 3: nothing), and sums gradients in two
    buckets.
    """
    count, width = work.shape.parameters, work.bytes_per_weight
    base, gather = _base_and_gathered(work, split)
    largest = work.shape.vocab * work.shape.hidden * width  # the embedding's gradient, before it is added
    in_pass, passes = activations(work, device, split.zero), logits(work, device, split.zero)
    states, sharded = count * STATES * _FLOAT, max(1, split.ranks if split.zero else 1)
    if split.zero == 0:
        gradients = count * width
        copied = width != _FLOAT or (work.global_rows or work.rows) > work.rows
        in_step = count * _FLOAT * (1 + copied)
    else:
        gradients = count * width // (sharded if split.zero >= 2 else 1) + 2 * min(count, BUCKET_ELEMENTS) * width
        in_step = count * _FLOAT // sharded
        states = states // sharded if split.offload == "none" else 0
    return Memory(
        base=base,
        adapter=0,
        optimizer=states,
        activations=in_pass,
        logits=passes,
        gather=gather,
        runtime=RUNTIME[device],
        gradients=gradients + max(largest, in_step - in_pass - passes),
    )


def checkpoint_bytes(count: int) -> int:
    """Bytes of a checkpoint of so many trained numbers: the numbers and both moments in fp32."""
    return 3 * _FLOAT * count


def adapter_parameters(shape: ShapeSpec, lora: LoraSpec) -> int:
    """Number of parameters of one adapter: r * (in + out) summed over the target layers."""
    return (
        adapted_layers(shape, lora)
        * lora.r
        * sum(inside + outside for name, (inside, outside) in linear_layers(shape).items() if _is_target(name, lora))
    )


def adapted_layers(shape: ShapeSpec, lora: LoraSpec) -> int:
    """Number of decoder layers with adapters, which are those that keep activations."""
    return min(lora.layers or shape.layers, shape.layers)


def linear_layers(shape: ShapeSpec) -> dict[str, tuple[int, int]]:
    """Linear layers of a block: name -> (in_features, out_features)."""
    queries, keys = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    attention = {
        "q_proj": (shape.hidden, queries),
        "k_proj": (shape.hidden, keys),
        "v_proj": (shape.hidden, keys),
        "o_proj": (queries, shape.hidden),
    }
    if shape.experts:
        return attention
    return attention | {
        "gate_proj": (shape.hidden, shape.intermediate),
        "up_proj": (shape.hidden, shape.intermediate),
        "down_proj": (shape.intermediate, shape.hidden),
    }


def activations(work: Work, device: Device, zero: int = 0) -> int:
    """Bytes of the activations that autograd keeps for all blocks, and of the gradients in flight at the peak."""
    layers = adapted_layers(work.shape, work.lora)
    block, inputs = _kept_per_token(work, device, zero), layers * work.shape.hidden * work.bytes_per_weight
    blocks = inputs + block if work.recompute else layers * block
    per_token, gradients = blocks + _FLOAT * work.shape.hidden, 3
    if device == "cuda" and work.recompute:
        # Products in place, and one block's states instead of all: as measured on fake GPUs (`tests/cuda_fake`).
        per_token, gradients = blocks, 2
    flowing = work.bytes_per_weight * gradients * work.shape.intermediate * (work.shape.active_experts or 1)
    below = LOWER_STATES_BYTES if layers < work.shape.layers else 0
    return work.packed_tokens(device) * (per_token + flowing) + dropout_masks(work, device) + below


def dropout_masks(work: Work, device: Device) -> int:
    """Bytes of the dropout masks of all blocks: those of a pass, and where a global batch takes several passes, those
    of all its tokens too."""
    if work.full or not work.lora.dropout:
        return 0
    modules = adapted_layers(work.shape, work.lora) * len(work.trained)
    per_token = modules * work.lora.r * work.bytes_per_weight
    rows = work.global_rows or work.rows
    drawn = work.at_once(device) * rows * work.tokens if rows > work.rows else 0
    return (work.packed_tokens(device) + drawn) * per_token


def _kept_per_token(work: Work, device: Device, zero: int) -> int:
    """Bytes of activations that one block keeps for one token."""
    shape, width = work.shape, work.bytes_per_weight
    queries, keys = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    in_attention = _FLOAT if device == "cpu" else width  # the CPU kernel computes in fp32
    of_heads = queries + keys if shape.architecture in ("qwen3", "gemma3") else 0
    # GPUs compute a norm in one kernel, from its input as it is (`modeling.fused_norms`), and silu of the gate again
    # (`modeling.fused_swiglu`), so that it flows where a block is recomputed. ZeRO-3 reads bases on the host, unfused.
    fused = device == "cuda" and zero < 3 and shape.architecture != "gemma3"
    norms = (2 * shape.hidden + of_heads) * (width if fused else _FLOAT)
    attention = in_attention * (2 * queries + 2 * keys + shape.heads)
    # The answer of variable-length attention is the next layer's input as it lies; sinks have no such kernel.
    shared = device == "cuda" and shape.architecture != "gpt_oss"
    read = (
        (shape.hidden, {"q_proj", "k_proj", "v_proj"}),
        (0 if shared else queries, {"o_proj"}),
        (shape.hidden, {"gate_proj", "up_proj"}),
        (shape.intermediate, {"down_proj"}),
    )
    inputs = sum(width * size for size, users in read if users & work.trained)
    silu = not fused or work.recompute or shape.experts is not None
    gated = (2 + silu) * shape.intermediate * (shape.active_experts or 1) * width
    return norms + attention + inputs + gated + (0 if work.full else len(work.trained) * work.lora.r * width)


def logits(work: Work, device: Device, zero: int = 0) -> int:
    """Bytes of the logits at the answer positions: fp32, their log-softmax, and the gradients of both. With gradient
    checkpointing on a GPU they are gone before the first block is computed again, and only what exceeds it counts."""
    answers = work.at_once(device) * work.rows * work.answers
    size = answers * work.shape.vocab * (3 * _FLOAT + work.bytes_per_weight)
    if device == "cuda" and work.recompute:
        flowing = 2 * work.bytes_per_weight * work.shape.intermediate * (work.shape.active_experts or 1)
        return max(0, size - work.packed_tokens(device) * (_kept_per_token(work, device, zero) + flowing))
    return size


def _is_target(name: str, lora: LoraSpec) -> bool:
    return lora.target_modules == "all-linear" or any(
        target.rpartition(".")[2] == name for target in lora.target_modules
    )
