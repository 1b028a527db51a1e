"""All weights of a model as what is trained (full-parameter fine-tuning), behind the interface of LoRA adapters.

The weights of the one run lie end to end, in the order of the model's parameters: [P]. For training without DeepSpeed
they are views into one buffer `flat_params` [1, P], their gradients views into `flat_grads` [1, P], so that clipping
and the optimiser's step are a few large operations. There is no dropout.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import nn

from p2p_dist.modeling.lora import Adapters


@dataclass(frozen=True)
class WeightView:
    """Position of one weight in the flat weights [P]."""

    name: str
    start: int
    shape: torch.Size

    @property
    def stop(self) -> int:
        return self.start + self.shape.numel()


class FullWeights:
    """The weights of one model. Tied weights are one; buffers are not trained."""

    runs = 1

    def __init__(self, model: nn.Module, device: torch.device):
        self.model, self.device = model, device
        self.layout: list[WeightView] = []
        for name, weight in model.named_parameters():
            self.layout.append(WeightView(name, self.layout[-1].stop if self.layout else 0, weight.shape))
        self.size = self.layout[-1].stop

    @cached_property
    def flat_params(self) -> torch.Tensor:
        """The weights as one buffer [1, P], into which the model's weights are views from now on."""
        first = next(self.model.parameters())
        flat = torch.empty(1, self.size, dtype=first.dtype, device=first.device)
        for view, weight in self.weights():
            piece = flat[0, view.start : view.stop].view(view.shape)
            piece.copy_(weight.detach())
            weight.data = piece
        return flat

    @cached_property
    def flat_grads(self) -> torch.Tensor:
        """The gradients as one buffer [1, P], to which backward passes add."""
        flat = torch.zeros_like(self.flat_params)
        for view, weight in self.weights():
            weight.requires_grad_()
            weight.grad = flat[0, view.start : view.stop].view(view.shape)
        return flat

    def weights(self) -> Iterator[tuple[WeightView, nn.Parameter]]:
        """Views with the model's parameters as they are now."""
        for view in self.layout:
            yield view, self.model.get_parameter(view.name)

    def no_gradients(self) -> None:
        """Let go of the gradients, after training."""
        self.model.requires_grad_(False)
        for _, weight in self.weights():
            weight.grad = None
        self.__dict__.pop("flat_grads", None)

    def select_runs(self, runs: slice) -> None:
        """Nothing: there is one run."""

    def init_params(self, stream: torch.Generator) -> torch.Tensor:
        """The weights as they are, [P] in fp32; nothing is drawn."""
        return torch.cat([weight.detach().float().reshape(-1) for _, weight in self.weights()])

    def load(self, run: int, params: torch.Tensor) -> None:
        """Copy weights, [P] of any float type, into the model. Weights on the meta device are left out."""
        with torch.no_grad():
            for view, weight in self.weights():
                if not weight.is_meta:
                    weight.copy_(params[view.start : view.stop].view(view.shape))

    def draw_dropout(self, tokens: Sequence[int], streams: Sequence[torch.Generator]) -> list[torch.Tensor]:
        """No masks."""
        return []

    def use_dropout(self, drawn: Sequence[torch.Tensor], columns: Sequence[torch.Tensor], width: int) -> None:
        """Nothing: there is no dropout."""

    def no_dropout(self) -> None:
        """Nothing: there is no dropout."""

    def state_dict(self, params: torch.Tensor) -> dict[str, torch.Tensor]:
        """Weights [P] under the model's names."""
        return {view.name: params[view.start : view.stop].view(view.shape) for view in self.layout}


Trainable = Adapters | FullWeights
"""Adapters, or all weights: the numbers that a cohort trains."""
