"""State of a surrogate's learning in a safetensors file that is replaced after every epoch, so that a stopped one
resumes."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from p2p_dist.results import atomic, confined
from p2p_dist.results.folder_handles import Damaged

_MOMENTS = ("step", "exp_avg", "exp_avg_sq")


@dataclass(frozen=True)
class SurrogateFile:
    """The file of one surrogate."""

    path: Path

    def read(self) -> dict[str, torch.Tensor]:
        """Tensors of an earlier attempt; none where there is no file, or a damaged one."""
        try:
            with confined.path_to_open_file(self.path) as path:
                tensors: dict[str, torch.Tensor] = load_file(path)
        except (FileNotFoundError, Damaged, SafetensorError):
            return {}
        return tensors

    def write(self, tensors: dict[str, torch.Tensor]) -> None:
        """Replace the file by these tensors."""
        atomic.write_bytes(self.path, save(tensors))

    def remove(self) -> None:
        """Delete the file; it may be missing."""
        confined.remove(self.path)


def state_of(
    epochs: int, trained: Sequence[torch.Tensor], optimizer: torch.optim.Optimizer, noise: torch.Generator
) -> dict[str, torch.Tensor]:
    """Trained tensors, moments of AdamW and the generator's state after so many epochs."""
    tensors = {"epochs": torch.tensor(epochs), "noise": noise.get_state()}
    for number, tensor in enumerate(trained):
        tensors[f"{number}"] = tensor.detach().cpu().contiguous()
        moments = optimizer.state[tensor]
        tensors |= {f"{number}.{name}": moments[name].cpu().contiguous() for name in _MOMENTS if name in moments}
    return tensors


@torch.no_grad()
def restored(
    tensors: dict[str, torch.Tensor],
    trained: Sequence[torch.Tensor],
    optimizer: torch.optim.Optimizer,
    noise: torch.Generator,
) -> int:
    """Set the state to the given one and return its number of epochs; 0 and no change where there is none."""
    if not tensors:
        return 0
    noise.set_state(tensors["noise"])
    for number, tensor in enumerate(trained):
        tensor.copy_(tensors[f"{number}"])
        moments = {name: tensors[f"{number}.{name}"] for name in _MOMENTS if f"{number}.{name}" in tensors}
        if moments:
            device = tensor.device
            optimizer.state[tensor] = {
                name: value if name == "step" else value.to(device) for name, value in moments.items()
            }
    return int(tensors["epochs"])
