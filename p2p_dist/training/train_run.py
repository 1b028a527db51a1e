"""A training as a cohort sees it: what goes into one run and what comes out of it."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from p2p_dist.config.methods import Alignment, Objective
from p2p_dist.config.study import TrainSpec
from p2p_dist.modeling.tokenization import Encoded
from p2p_dist.training.batches import Schedule
from p2p_dist.training.checkpoint import RunState
from p2p_dist.training.reparametrization import Generator


@dataclass(frozen=True)
class Aligned:
    """Alignment of a run's gradients, with the trusted rows that give the direction."""

    method: Alignment
    rows: Sequence[Encoded]


@dataclass(frozen=True)
class TrainRun:
    """One member of a cohort: what it trains on, how, and where it goes on from."""

    spec: TrainSpec
    seed: int
    rows: Sequence[Encoded]
    resume: RunState | None = None
    start: torch.Tensor | None = None
    """Numbers [P] to begin with in place of fresh ones."""
    stop_after_steps: int | None = None
    """End here, on the schedule of the whole training."""
    objective: Objective | None = None
    """Loss in place of cross-entropy; the same for all runs of a cohort."""
    generator: Generator | None = None
    """Generator of the adapter, where it is not trained itself; the same for all runs of a cohort."""
    aligned: Aligned | None = None
    """Trusted rows that give the gradients their direction; all runs of a cohort have some, or none."""

    @property
    def schedule(self) -> Schedule:
        turns = [row.turn for row in self.rows] if any(row.turn for row in self.rows) else []
        return Schedule(self.seed, len(self.rows), self.spec.num_train_epochs, self.spec.global_batch, turns)

    def stream(self, purpose: str, device: torch.device | None = None) -> torch.Generator:
        """A named stream of random numbers of this run, drawn on the device (default: the host)."""
        number = hashlib.sha256(f"{self.seed}:{purpose}".encode()).digest()[:8]
        return torch.Generator(device or torch.device("cpu")).manual_seed(int.from_bytes(number, "little", signed=True))


def in_turn(rows: Sequence[Encoded], turns: Mapping[str, int]) -> list[Encoded]:
    """The rows with their turns in the first pass, by id."""
    return [replace(row, turn=turns[row.id]) if row.id in turns else row for row in rows]


@dataclass(frozen=True)
class Trained:
    """The end of one run: its numbers [P] in fp32, or why there are none."""

    values: torch.Tensor
    steps: int
    tokens: int
    loss: float
    diverged: str = ""
    topologies: tuple[str, ...] = ()
    """The layouts it was trained under, one after the other; more than one only after a resume under another."""
