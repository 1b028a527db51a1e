"""Memory of passes without gradients: scores of rows, and text answers, whose keys and values are cached.

Evaluation sizes its cache by the functions that a plan counts it with. The sizes depend on the model and on the
device's total memory alone, never on what is free at the moment, so that the same rows stand together again.
"""

from dataclasses import replace

from p2p_dist.planning.memory import GIB, RUNTIME, Memory, Split, Work, estimate
from p2p_dist.planning.passes import Device

USABLE = 0.92
"""Share of a device's memory that a plan may use; the rest is for fragmentation of the allocator."""
TOKENS_PER_PASS = 4096
TOKENS_ON_LARGE_GPU = 32_768
"""Tokens of a pass without gradients on a GPU of `LARGE_GPU` or more: with fewer it waits for its next operation."""
LARGE_GPU = 70e9
"""Bytes."""
TOKENS_AT_ONCE = 16_384
"""Tokens of prompts and answers in the cache at a time, where they have room: 2.7 GB for a model of 14 billion weights
in bfloat16."""
CACHE_BYTES = 2.7e9
"""Smaller models have room for more tokens in as much memory."""
ROWS_AT_ONCE: dict[Device, int] = {"cpu": 64, "cuda": 256}
"""More rows do not make a token cheaper."""
_LOGITS_AT_ONCE = 256
"""Positions whose logits are computed together."""
_FLOAT = 4


def tokens_per_pass(gpu_bytes: float | None) -> int:
    """Tokens of a pass on a GPU with so much memory; None for a CPU, or where it is not known."""
    return TOKENS_PER_PASS if gpu_bytes is None or gpu_bytes < LARGE_GPU else TOKENS_ON_LARGE_GPU


def usual_cache_tokens(token_bytes: int) -> int:
    """Tokens of a cache where memory does not limit it; `token_bytes` are the keys and values of one."""
    return max(TOKENS_AT_ONCE, round(CACHE_BYTES / token_bytes))


def cache_tokens(work: Work, gpu_bytes: float) -> int:
    """Tokens of the cache of a model on a GPU: the usual number, or as many as fill half of what base, runtime and a
    pass leave of whole GiB. The other half is for what a training keeps. May be less than a row needs, even 0."""
    whole = gpu_bytes // GIB * GIB
    room = USABLE * whole - RUNTIME["cuda"] - work.base_bytes - pass_bytes(work, tokens_per_pass(gpu_bytes))
    token_bytes = cached_bytes(work)
    return max(0, min(usual_cache_tokens(token_bytes), int(room / 2 / token_bytes)))


def cached_bytes(work: Work) -> int:
    """Bytes of the keys and values of one token."""
    shape = work.shape
    return 2 * shape.layers * shape.kv_heads * shape.head_dim * work.bytes_per_weight


def pass_bytes(work: Work, tokens: int) -> int:
    """Bytes that a pass without gradients holds at its peak: the largest layer's states, and some rows' logits."""
    shape, width = work.shape, work.bytes_per_weight
    heads = (shape.heads + 2 * shape.kv_heads) * shape.head_dim
    feed_forward = 3 * shape.intermediate * (shape.active_experts or 1)
    states = width * (4 * shape.hidden + max(feed_forward, 2 * heads))
    return tokens * states + _LOGITS_AT_ONCE * shape.vocab * (width + 2 * _FLOAT)


def inference_memory(
    work: Work, split: Split, device: Device, gpu_bytes: float | None, row: int | None = None
) -> Memory:
    """Peak memory of a rank that evaluates what a training of this work has left: the weights and the adapters with
    their gradients, under ZeRO all gradients and the optimiser's states, a pass, and where rows of `row` tokens get
    text answers (None: they do not) the cache."""
    kept, tokens = estimate(work, split, device), tokens_per_pass(gpu_bytes)
    cached = 0
    if row is not None:
        tokens = max(tokens, row)
        known = usual_cache_tokens(cached_bytes(work)) if gpu_bytes is None else cache_tokens(work, gpu_bytes)
        cached = cached_bytes(work) * max(row, min(known, ROWS_AT_ONCE[device] * row))
    gradients = min(kept.gradients, work.shape.parameters * work.bytes_per_weight) if split.zero else 0
    return replace(
        kept,
        optimizer=kept.optimizer if split.zero else 0,
        activations=pass_bytes(work, tokens),
        logits=0,
        gradients=gradients,
        cache=cached,
    )
