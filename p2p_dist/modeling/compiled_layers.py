"""Decoder layers compiled by torch.compile (`train.compile`): one graph for all layers of a class and all batches, with
norms, rope, activations and residual sums fused, and attention as one operation in it.

Layers are compiled as they are, whatever the family. `training.compiled` proves the result before the first step.
"""

import hashlib
import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AttentionInterface

from p2p_dist import assets
from p2p_dist.errors import user_error
from p2p_dist.modeling import attention
from p2p_dist.modeling.attention import PackedRows, packed_attention
from p2p_dist.modeling.body import decoder_layers
from p2p_dist.modeling.lora import LoraLinear
from p2p_dist.modeling.opaque_attention import handle_of, opaque_attention
from p2p_dist.planning.cluster import cpu_flags

MOST_GRAPHS = 1000
"""Graphs that a process may hold; a worker compiles for each base, adapter shape and cohort size."""


@contextmanager
def compiled_layers(model: Any) -> Iterator[None]:
    """Compile every decoder layer inside the block, for passes with gradients over packed rows; other passes stay as
    they are. The first pass compiles."""
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(code_folder()))
    import torch._inductor.config

    layers = decoder_layers(model)
    before = [vars(layer).get("forward") for layer in layers]
    # A pool of compiling processes would outlive a killed worker, and kernels that are chosen by a clock change bits.
    with torch._inductor.config.patch(compile_threads=1, deterministic=True), _graphs_allowed(MOST_GRAPHS):
        AttentionInterface.register(attention.NAME, opaque_attention)
        graphs = {kind: torch.compile(kind.forward, fullgraph=True) for kind in {type(layer) for layer in layers}}
        for layer in layers:
            layer.forward = partial(_forward, graphs[type(layer)], layer, layer.forward, _adapted(layer))
        try:
            yield
        finally:
            AttentionInterface.register(attention.NAME, packed_attention)
            for layer, forward in zip(layers, before, strict=True):
                del layer.forward
                if forward is not None:
                    layer.forward = forward


def code_folder() -> Path:
    """The folder of compiled code in the cache of this user, which machines may share: code is compiled for the
    instructions of one CPU, and torch does not tell CPUs apart. Torch's own default is a folder in /tmp."""
    instructions = " ".join(sorted(cpu_flags())).encode()
    return assets.cache_dir() / "compiled" / hashlib.sha256(instructions).hexdigest()[:12]


def compiler() -> str:
    """Name and version of the C++ compiler of kernels for CPUs. Raises UserError E320 where there is none."""
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        command = [get_cpp_compiler(), "--version"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[0]
    except (InvalidCxxCompiler, OSError, subprocess.SubprocessError) as error:
        fix = "install g++, name a compiler in CXX, or remove train.compile"
        raise user_error("E320", "this machine has no C++ compiler", "train.compile", fix) from error


def _adapted(layer: nn.Module) -> list[LoraLinear]:
    return [module for module in layer.modules() if isinstance(module, LoraLinear)]


def _forward(
    graph: Callable[..., Any],
    layer: nn.Module,
    plain: Callable[..., Any],
    adapted: list[LoraLinear],
    states: torch.Tensor,
    *inputs: Any,
    packed: Any = None,
    **settings: Any,
) -> Any:
    """The layer's forward pass, states [K, T, d]."""
    if not (torch.is_grad_enabled() and isinstance(packed, PackedRows)):
        return plain(states, *inputs, packed=packed, **settings)
    for linear in adapted:  # an index into the masks of all layers would be compiled into the graph of each
        linear.kept = linear.mask()
        if linear.kept is not None:
            _mark_dynamic(linear.kept, 2)
    if not states.requires_grad:
        states = states.detach().requires_grad_()  # the first layer shares the graph of the others
    for tensor in _tensors([states, inputs, settings]):
        if tensor.dim() > 1 and tensor.shape[:2] == states.shape[:2]:
            _mark_dynamic(tensor, 1)
    return graph(layer, states, *inputs, packed=handle_of(packed), **settings)


def _mark_dynamic(tensor: torch.Tensor, dim: int) -> None:
    """Compile for any number of tokens, the length of this dimension."""
    if not hasattr(tensor, "_dynamo_dynamic_indices"):
        torch._dynamo.mark_dynamic(tensor, dim)


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    """The tensors in nested lists, tuples and mappings."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _tensors(part)
    elif isinstance(value, dict):
        yield from _tensors(list(value.values()))


def _graphs_allowed(most: int) -> Any:
    """Past this number torch would refuse to compile; its default of eight is for one program. A cohort of another size
    gets the graph that it would get in a process of its own, and none for any size."""
    import torch._dynamo.config

    return torch._dynamo.config.patch(
        recompile_limit=most, accumulated_recompile_limit=most, automatic_dynamic_shapes=False
    )
