"""LoRA adapters of a cohort (a multi-adapter batch): K runs on one frozen base, their matrices stacked as `[K, r, d]`.

One run is the case K = 1 of the same code. All adapter parameters of a cohort lie in one buffer `flat_params` [K, P],
their gradients in `flat_grads` [K, P], so that clipping, the optimiser step and the copy from the fp32 masters are a
few large operations instead of hundreds of small ones. Each matrix is a view into both (`ParamView`). Dropout sits
between A and B, as in the code released with P2P (arXiv 2510.04503; PEFT puts it before A), and is drawn from one
stream per run.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from p2p_dist.config.study import LoraSpec
from p2p_dist.modeling.dropout import Dropout, keep_masks
from p2p_dist.modeling.lora_product import SameInput, share_inputs
from p2p_dist.modeling.lora_targets import target_names
from p2p_dist.modeling.transfer import sent

_SELECTED: ContextVar[torch.Tensor | None] = ContextVar("selected tokens", default=None)


@contextmanager
def tokens_selected(tokens: torch.Tensor | None) -> Iterator[None]:
    """Compute these tokens [n] of a packed batch of one run inside the block; None for all of them."""
    before = _SELECTED.set(tokens)
    try:
        yield
    finally:
        _SELECTED.reset(before)


def selected_tokens() -> torch.Tensor | None:
    """The tokens of `tokens_selected`."""
    return _SELECTED.get()


class LoraLinear(nn.Module):
    """A frozen linear layer with K adapters: y = x W^T + scale * dropout(x A^T) B^T.

    Shapes: x [K, T, in] -> [K, T, out], or any x [..., in] whose tokens lie run by run; `lora_a` [K, r, in], `lora_b`
    [K, out, r]. `module_index` is the layer's index into the dropout masks.
    """

    def __init__(self, base: nn.Module, module_index: int, scale: float, dropout: Dropout):
        super().__init__()
        self.base = base
        self.in_features, self.out_features = features_of(base)
        self.module_index, self.scale, self.dropout = module_index, scale, dropout
        self.lora_a: torch.Tensor
        self.lora_b: torch.Tensor
        self.same_input = SameInput([self])
        self.kept: torch.Tensor | None = None
        """What `mask` gives, set before a compiled pass (`modeling.compiled_layers`)."""

    @property
    def weight(self) -> torch.Tensor:
        """The frozen weight, for models that look at it."""
        return self.base.weight  # type: ignore[return-value]

    @property
    def bias(self) -> torch.Tensor | None:
        """The frozen bias, for models that look at it."""
        return self.base.bias  # type: ignore[return-value]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        is_compiling = torch.compiler.is_compiling()
        if x.device.type == "cuda" and type(self.base) is nn.Linear and not is_compiling:
            return self.same_input.answer(self, x)
        if x.dim() != 3 or len(x) != len(self.lora_a):
            return self.forward(x.reshape(len(self.lora_a), -1, x.shape[-1])).view(*x.shape[:-1], -1)
        hidden, mask = torch.bmm(x, self.lora_a.transpose(1, 2)), self.kept if is_compiling else self.mask()
        if mask is not None:
            hidden = hidden * mask[0]
        return torch.baddbmm(self.base(x), hidden, self.lora_b.transpose(1, 2), alpha=self.scale)

    def mask(self, layers: int = 1) -> torch.Tensor | None:
        """Keep masks of this layer and those behind it for the tokens that are computed, [layers, K, T, r]; None
        without dropout."""
        if self.dropout.masks is None:
            return None
        masks, tokens = self.dropout.masks[self.module_index : self.module_index + layers], _SELECTED.get()
        return masks if tokens is None else masks.index_select(2, tokens)


def features_of(layer: nn.Module) -> tuple[int, int]:
    """Inputs and outputs of a linear layer."""
    if isinstance(layer, Conv1D):
        return int(layer.weight.shape[0]), int(layer.weight.shape[1])
    assert isinstance(layer, nn.Linear)
    return layer.in_features, layer.out_features


@dataclass(frozen=True)
class ParamView:
    """Position of one matrix in a run's flat parameters [P]: `side` A is [r, in], B is [out, r]."""

    layer: str
    side: str
    start: int
    shape: tuple[int, int]

    @property
    def stop(self) -> int:
        return self.start + self.shape[0] * self.shape[1]

    @property
    def name(self) -> str:
        """PEFT's name of the matrix."""
        return f"base_model.model.{self.layer}.lora_{self.side}.weight"


class Adapters:
    """The K adapters injected into one base.

    `layout` lists the matrices of one run in order, `size` is P, the number of parameters of one run.
    """

    def __init__(self, model: nn.Module, spec: LoraSpec, runs: int, device: torch.device | None = None):
        """Parameters lie on `device`; None for that of the base's weights."""
        self.spec, self.runs = spec, runs
        self.dropout = Dropout()
        self.layers = _inject(model, spec, self.dropout)
        model.requires_grad_(False)
        self.layout = _layout(self.layers, spec.r)
        self.size = self.layout[-1].stop
        weight = model.get_input_embeddings().weight  # type: ignore[operator]  # the base's own may be in 4 bits
        self.flat_params = torch.zeros(runs, self.size, dtype=weight.dtype, device=device or weight.device)
        self.flat_grads = torch.zeros_like(self.flat_params)
        self.selected: slice | None = None
        self.select_runs(slice(None))

    def select_runs(self, runs: slice, again: bool = False) -> None:
        """Compute with these runs from now on: `slice(None)` for all, `slice(k, k + 1)` for run k alone. `again` makes
        the views of their parameters anew although they are selected."""
        if runs == self.selected and not again:
            return
        self.selected = runs
        # The leaf has a count of changes of its own, so that updates of `flat_params` leave its views as they are.
        leaf = self.flat_params.data[runs].requires_grad_()
        leaf.grad = self.flat_grads[runs]
        with torch.enable_grad():
            self._use(leaf)

    def settle_products(self) -> None:
        """Between two passes: layers that turned out to read inputs of their own share no products any more."""
        for layer in self.layers.values():
            layer.same_input.settle()

    def share_no_products(self) -> None:
        """Let each layer compute its own products, for wrappers that give each an input of its own (ZeRO-3's do)."""
        for layer in self.layers.values():
            layer.same_input = SameInput([layer])

    def init_params(self, stream: torch.Generator) -> torch.Tensor:
        """Initial parameters of one run, [P] in fp32: A uniform in +-1/sqrt(in) (Kaiming with a = sqrt 5), B zero."""
        params = torch.zeros(self.size)
        for view in self.layout:
            if view.side == "A":
                bound = 1 / math.sqrt(view.shape[1])
                params[view.start : view.stop].uniform_(-bound, bound, generator=stream)
        return params

    def use_tensor(self, params: torch.Tensor) -> None:
        """Compute a single run with views of `params` [P], to which gradients flow back."""
        self._use(params[None])

    def _use(self, params: torch.Tensor) -> None:
        """Compute with views of `params` [k, P]. All gradients come back to it in one operation."""
        pieces = params.split([view.stop - view.start for view in self.layout], dim=1)
        for view, piece in zip(self.layout, pieces, strict=True):
            setattr(self.layers[view.layer], f"lora_{view.side.lower()}", piece.view(-1, *view.shape))

    def load(self, run: int, params: torch.Tensor) -> None:
        """Copy one run's parameters, [P] of any float type, into the compute copy."""
        with torch.no_grad():
            self.flat_params[run].copy_(params)

    def load_all(self, params: torch.Tensor) -> None:
        """Copy the parameters of all runs, [K, P] of any float type, into the compute copy."""
        with torch.no_grad():
            self.flat_params.copy_(params)

    def draw_dropout(self, tokens: Sequence[int], streams: Sequence[torch.Generator]) -> list[torch.Tensor]:
        """Keep masks of one step: [modules, tokens, r] in the compute type for each run, over all tokens of its global
        batch.

        Each run draws from its own stream, so a draw depends neither on its cohort nor on the split into ranks and
        micro-batches. Masks are drawn in fp32 on the streams' device, which is the base's.
        """
        if self.spec.dropout == 0:
            return []
        return [
            keep_masks(len(self.layers), count, self.spec.r, self.spec.dropout, stream, self.flat_params.dtype)
            for count, stream in zip(tokens, streams, strict=True)
        ]

    def use_dropout(self, drawn: Sequence[torch.Tensor], columns: Sequence[torch.Tensor], width: int) -> None:
        """Select the masks of one packed batch of the selected runs, `width` tokens wide.

        `columns[k]` are the positions of its tokens in the k-th run's global batch.
        """
        if not drawn:
            return
        masks = self.flat_params.new_zeros(len(self.layers), len(drawn), width, self.spec.r)
        for run, (mask, tokens) in enumerate(zip(drawn, columns, strict=True)):
            masks[:, run, : len(tokens)] = (
                mask if len(tokens) == mask.shape[1] else mask.index_select(1, sent(tokens, mask.device))
            )
        self.dropout.masks = masks

    def no_dropout(self) -> None:
        """Switch dropout off, for evaluation."""
        self.dropout.masks = None

    def state_dict(self, params: torch.Tensor) -> dict[str, torch.Tensor]:
        """One run's parameters [P] as matrices under PEFT's names, A [r, in] and B [out, r]."""
        return {view.name: params[view.start : view.stop].view(view.shape) for view in self.layout}

    def from_state_dict(self, tensors: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Flat parameters [P] in fp32 from matrices under PEFT's names. Raises KeyError for a missing tensor."""
        return torch.cat([tensors[view.name].float().reshape(-1) for view in self.layout])


def _inject(model: nn.Module, spec: LoraSpec, dropout: Dropout) -> dict[str, LoraLinear]:
    """Replace every target layer of the model by a LoraLinear."""
    layers: dict[str, LoraLinear] = {}
    for name in target_names(model, spec):
        layers[name] = LoraLinear(model.get_submodule(name), len(layers), spec.alpha / spec.r, dropout)
        parent, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(parent), leaf, layers[name])
    share_inputs(layers)
    return layers


def eject(model: nn.Module) -> None:
    """Replace every LoraLinear by the layer that it wraps."""
    for name, module in list(model.named_modules()):
        if isinstance(module, LoraLinear):
            parent, _, leaf = name.rpartition(".")
            setattr(model.get_submodule(parent), leaf, module.base)


def _layout(layers: Mapping[str, LoraLinear], r: int) -> list[ParamView]:
    """The matrices of one run, end to end."""
    views: list[ParamView] = []
    for name, layer in layers.items():
        for side, shape in (("A", (r, layer.in_features)), ("B", (layer.out_features, r))):
            views.append(ParamView(name, side, views[-1].stop if views else 0, shape))
    return views
