"""LoRA adapters of a cohort: K runs on one frozen base, their adapters stacked as `[K, r, d]`.

One run is the ordinary case K = 1, not another path. All adapter numbers of a cohort lie in one buffer `[K, P]`, its
gradients in another, so that clipping, the optimiser step and the copy from the fp32 masters are a few large operations
instead of hundreds of small ones. Dropout sits between A and B, as in the code released with P2P
(reference: arXiv 2510.04503; PEFT puts it before A), and is drawn from one stream per run.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from p2p_dist.config.study import LoraSpec


class Dropout:
    """The keep masks of one step, drawn at once: [modules, K, T, r], already divided by the keep rate."""

    def __init__(self) -> None:
        self.masks: torch.Tensor | None = None


class LoraLinear(nn.Module):
    """A frozen linear layer and K adapters: y = x W^T + scale * dropout(x A^T) B^T. Shapes: x [K, T, in] -> [K, T,
    out]."""

    def __init__(self, base: nn.Linear, slot: int, scale: float, dropout: Dropout):
        super().__init__()
        self.base = base
        self.slot, self.scale, self.dropout = slot, scale, dropout
        self.lora_a: nn.Parameter
        self.lora_b: nn.Parameter

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if len(x) != len(self.lora_a):  # generation: the rows of one run as a batch
            return self.forward(x.reshape(len(self.lora_a), -1, x.shape[-1])).view(*x.shape[:-1], -1)
        hidden = torch.bmm(x, self.lora_a.transpose(1, 2))
        if self.dropout.masks is not None:
            hidden = hidden * self.dropout.masks[self.slot]
        return torch.baddbmm(self.base(x), hidden, self.lora_b.transpose(1, 2), alpha=self.scale)


@dataclass(frozen=True)
class Slice:
    """Where one matrix lies in a run's flat numbers: `side` A is [r, in], B is [out, r]."""

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
    """The K adapters injected into one base: their numbers, gradients, dropout and names."""

    def __init__(self, model: nn.Module, spec: LoraSpec, runs: int):
        self.spec, self.runs = spec, runs
        self.dropout = Dropout()
        self.layers = _inject(model, spec, self.dropout)
        model.requires_grad_(False)
        self.layout = _layout(self.layers, spec.r)
        self.size = self.layout[-1].stop
        weight = model.get_input_embeddings().weight  # type: ignore[operator]  # the base's own may be in 4 bits
        self.values = torch.zeros(runs, self.size, dtype=weight.dtype, device=weight.device)
        self.grads = torch.zeros_like(self.values)
        self.bound: slice | None = None
        self.bind(slice(None))

    def bind(self, runs: slice) -> None:
        """Let the layers compute with these runs: `slice(None)` for all, `slice(k, k + 1)` for run k alone."""
        if runs == self.bound:
            return
        self.bound = runs
        for part in self.layout:
            matrix = nn.Parameter(self._view(self.values[runs], part))
            matrix.grad = self._view(self.grads[runs], part)
            setattr(self.layers[part.layer], f"lora_{part.side.lower()}", matrix)

    def _view(self, buffer: torch.Tensor, part: Slice) -> torch.Tensor:
        """[K, *shape] over a buffer [K, P]: all matrices and gradients live in the two buffers."""
        return buffer[:, part.start : part.stop].view(-1, *part.shape)

    def initial(self, stream: torch.Generator) -> torch.Tensor:
        """Start values of one run in fp32, [P]: A uniform in +-1/sqrt(in) (Kaiming with a = sqrt 5), B zero."""
        start = torch.zeros(self.size)
        for part in self.layout:
            if part.side == "A":
                bound = 1 / math.sqrt(part.shape[1])
                start[part.start : part.stop].uniform_(-bound, bound, generator=stream)
        return start

    def split(self, values: torch.Tensor) -> None:
        """Let the layers of a single run compute with pieces of one flat tensor [P] that gradients flow back to."""
        pieces = values.split([part.stop - part.start for part in self.layout])
        for part, piece in zip(self.layout, pieces, strict=True):
            layer, name = self.layers[part.layer], f"lora_{part.side.lower()}"
            # A registered parameter of that name would be one more to shard.
            layer._parameters.pop(name, None)
            setattr(layer, name, piece.view(1, *part.shape))

    def load(self, run: int, values: torch.Tensor) -> None:
        """Take one run's numbers, [P] of any float type, as the compute copy."""
        with torch.no_grad():
            self.values[run].copy_(values)

    def draw_dropout(self, tokens: Sequence[int], streams: Sequence[torch.Generator]) -> list[torch.Tensor]:
        """The keep masks of one step, one [modules, tokens, r] for each run over all tokens of its global batch.

        Each run draws from its own stream, so neither its cohort nor the split into ranks and micro-batches moves a
        draw. Masks are drawn where the streams are: on the base's device, so that nothing is drawn on the host and
        carried over.
        """
        rate = self.spec.dropout
        if rate == 0:
            return []
        counts = zip(tokens, streams, strict=True)
        shapes = [((len(self.layers), count, self.spec.r), stream) for count, stream in counts]
        return [
            torch.rand(shape, generator=stream, device=stream.device).ge_(rate).div_(1 - rate)
            for shape, stream in shapes
        ]

    def use_dropout(self, drawn: Sequence[torch.Tensor], columns: Sequence[torch.Tensor], width: int) -> None:
        """Bring the drawn masks of one packed batch of the bound runs into place: `columns[k]` are the tokens of the
        k-th one's global batch in it."""
        if not drawn:
            return
        masks = self.values.new_zeros(len(self.layers), len(drawn), width, self.spec.r)
        for run, (mask, chosen) in enumerate(zip(drawn, columns, strict=True)):
            masks[:, run, : len(chosen)] = (
                mask if len(chosen) == mask.shape[1] else mask.index_select(1, chosen.to(mask.device))
            )
        self.dropout.masks = masks

    def no_dropout(self) -> None:
        """For evaluation."""
        self.dropout.masks = None

    def tensors(self, values: torch.Tensor) -> dict[str, torch.Tensor]:
        """One run's numbers [P] under PEFT's names, A [r, in] and B [out, r]."""
        return {part.name: values[part.start : part.stop].view(part.shape) for part in self.layout}

    def flatten(self, named: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """The inverse of `tensors`: [P] in fp32. Raises KeyError for a missing tensor."""
        return torch.cat([named[part.name].float().reshape(-1) for part in self.layout])


def _inject(model: nn.Module, spec: LoraSpec, dropout: Dropout) -> dict[str, LoraLinear]:
    """Put a LoraLinear in place of every target layer of the model."""
    layers: dict[str, LoraLinear] = {}
    for name in target_names(model, spec):
        base = model.get_submodule(name)
        assert isinstance(base, nn.Linear)
        layers[name] = LoraLinear(base, len(layers), spec.alpha / spec.r, dropout)
        parent, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(parent), leaf, layers[name])
    return layers


def eject(model: nn.Module) -> None:
    """Put the model's own layers back in the place of every LoraLinear."""
    for name, module in list(model.named_modules()):
        if isinstance(module, LoraLinear):
            parent, _, leaf = name.rpartition(".")
            setattr(model.get_submodule(parent), leaf, module.base)


def _layout(layers: Mapping[str, LoraLinear], r: int) -> list[Slice]:
    """The matrices of one run, end to end."""
    parts: list[Slice] = []
    for name, layer in layers.items():
        for side, shape in (("A", (r, layer.base.in_features)), ("B", (layer.base.out_features, r))):
            parts.append(Slice(name, side, parts[-1].stop if parts else 0, shape))
    return parts


def target_names(model: nn.Module, spec: LoraSpec) -> list[str]:
    """Full names of the linear layers that get an adapter. Raises ValueError when a named target does not exist."""
    linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear) and name != "lm_head"]
    if spec.target_modules == "all-linear":
        return linear
    chosen = [name for name in linear if name.rpartition(".")[2] in spec.target_modules]
    missing = set(spec.target_modules) - {name.rpartition(".")[2] for name in chosen}
    if missing:
        known = sorted({name.rpartition(".")[2] for name in linear})
        raise ValueError(f"lora.target_modules: {sorted(missing)} not in this model; it has {known}")
    return chosen
