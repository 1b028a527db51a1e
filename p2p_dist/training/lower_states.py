"""Hidden states below the adapters (`train.lora.layers`): decoder layers without an adapter compute the same states for
a row in every epoch, so each row passes them once and its states are kept.

Rows pass the lower layers in the batches of the first epoch, whenever one of them is first used: states depend neither
on the step at which a run was resumed nor on micro-batches. The first batch of a training is computed with and without
kept states; a model whose upper layers read more than the states of the layer below them is trained without.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import islice
from typing import Any

import torch
from torch import nn

from p2p_dist.modeling import guard
from p2p_dist.modeling.base import Base
from p2p_dist.modeling.body import decoder_layers
from p2p_dist.modeling.forward import answer_states
from p2p_dist.modeling.full_weights import FullWeights, Trainable
from p2p_dist.modeling.lengths import takes_rows_apart
from p2p_dist.modeling.packing import Batch, grouping, pack
from p2p_dist.planning.memory import LOWER_STATES_BYTES
from p2p_dist.training.engine import Execution
from p2p_dist.training.train_run import TrainRun


def lower_states_of(
    base: Base, runs: Sequence[TrainRun], adapters: Trainable, execution: Execution
) -> "LowerStates | None":
    """Kept states of a cohort's training. None where all layers have adapters or all weights are trained, where the
    loss reads hidden states of other layers, where rows are computed one by one or by ZeRO-3, and where the states are
    more than `LOWER_STATES_BYTES`."""
    config = base.model.config.get_text_config()
    layers = None if isinstance(adapters, FullWeights) else adapters.spec.layers
    if layers is None or layers >= config.num_hidden_layers:
        return None
    longest = max(len(row.ids) for run in runs for row in run.rows)
    has_own_loss = any(run.objective or run.aligned for run in runs)
    if execution.zero == 3 or takes_rows_apart(base.model, longest) or has_own_loss:
        return None
    tokens = sum(len(row.ids) for run in runs for row in run.rows)
    if tokens * config.hidden_size * base.dtype.itemsize > LOWER_STATES_BYTES:
        return None
    return LowerStates(base.model, layers, runs, execution.ranks.world)


class _LowerLayersDone(Exception):
    """End of a forward pass that computes the lower layers alone."""


class LowerStates:
    """States [n, d] of the rows of one training after the decoder layers below the `adapted` upper ones."""

    def __init__(self, model: Any, adapted: int, runs: Sequence[TrainRun], ranks: int = 1):
        self._model, self._runs = model, runs
        self._layers: list[nn.Module] = decoder_layers(model)[:-adapted]
        self._groups = [_groups(run, ranks) for run in runs]
        self._stored: dict[tuple[int, int], torch.Tensor] = {}
        self._given: torch.Tensor | None = None
        self._last: torch.Tensor | None = None
        self._is_tuple = False
        self._stops_below = False
        self.is_right: bool | None = None
        """True if the model computes the same with kept states; None before the first batch."""

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Let the lower layers hand on the states that are given, inside the block."""
        before = [vars(layer).get("forward") for layer in self._layers]
        for index, layer in enumerate(self._layers):
            layer.forward = partial(self._forward, layer.forward, index == len(self._layers) - 1)
        try:
            yield
        finally:
            for layer, forward in zip(self._layers, before, strict=True):
                del layer.forward
                if forward is not None:
                    layer.forward = forward

    @contextmanager
    def given(self, rows: Sequence[tuple[int, int]], batch: Batch) -> Iterator[None]:
        """Forward passes of this batch begin at the upper layers inside the block. `rows` are its rows in order, each
        as (run, index of the row)."""
        states = self._states(rows, batch) if self.is_right is not False else None
        if states is not None and self.is_right is None:
            self.is_right = self._agree(batch, states)
        self._given = states if self.is_right else None
        try:
            yield
        finally:
            self._given = None

    def _forward(self, forward: Callable[..., Any], is_last: bool, states: torch.Tensor, *args: Any, **kw: Any) -> Any:
        """A lower layer: its own forward pass, or the given states behind the last of them."""
        if self._given is not None:
            handed_on = self._given if is_last else states
            return (handed_on,) if self._is_tuple else handed_on
        output = forward(states, *args, **kw)
        self._is_tuple = isinstance(output, tuple)
        if is_last and self._stops_below:
            self._last = output[0] if self._is_tuple else output
            raise _LowerLayersDone
        return output

    def _states(self, rows: Sequence[tuple[int, int]], batch: Batch) -> torch.Tensor:
        """Shape: [K, T, d], filler tokens 0."""
        for run, index in rows:
            if (run, index) not in self._stored:
                self._compute(run, self._groups[run][index], batch.ids.device)
        states = self._stored[rows[0]].new_zeros(batch.ids.numel(), self._stored[rows[0]].shape[-1])
        for row, (start, length) in zip(rows, batch.packed.places, strict=True):
            states[start : start + length] = self._stored[row]
        return states.view(*batch.ids.shape, -1)

    @torch.no_grad()
    def _compute(self, run: int, indices: Sequence[int], device: torch.device) -> None:
        """Keep the states of these rows of a run after one pass through the lower layers."""
        batch = pack([[self._runs[run].rows[index] for index in indices]], grouping(device)).to(device)
        self._stops_below = True
        try:
            answer_states(self._model, batch.ids, batch.positions, batch.packed, batch.answers)
        except _LowerLayersDone:
            pass
        finally:
            self._stops_below = False
        assert self._last is not None
        states, self._last = self._last.reshape(-1, self._last.shape[-1]), None
        for index, (start, length) in zip(indices, batch.packed.places, strict=True):
            self._stored[run, index] = states[start : start + length]

    @torch.no_grad()
    def _agree(self, batch: Batch, states: torch.Tensor) -> bool:
        """True if a batch's last hidden states are those of a whole forward pass, but for rounding."""
        expected = answer_states(self._model, batch.ids, batch.positions, batch.packed, batch.answers)
        self._given = states
        ours = answer_states(self._model, batch.ids, batch.positions, batch.packed, batch.answers)
        self._given = None
        return guard.difference(ours.float(), expected.float()) <= guard.TOLERANCE[expected.dtype]


def _groups(run: TrainRun, ranks: int) -> dict[int, list[int]]:
    """Rows that pass the lower layers together, by the index of each: a rank's part of a batch of the first epoch."""
    schedule = run.schedule
    first_epoch = islice(schedule.batches(), schedule.steps // schedule.epochs)
    parts = (batch[part::ranks] for batch in first_epoch for part in range(ranks))
    return {index: part for part in parts for index in part}
