"""Hidden states below the adapters (`train.lora.layers`): decoder layers without an adapter compute the same states for
a row in every epoch, so each row passes them once and its states are kept.

A row passes the lower layers alone, never in a packed batch: its states do not depend on the rows beside it, and a
resumed run, which computes them again, gets the same bits. The first batch of a training is computed with and without
the kept states; a model whose upper layers read more than the states of the layer below them is trained without.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn

from p2p_dist.config.study import LoraSpec
from p2p_dist.modeling import guard
from p2p_dist.modeling.base import Base
from p2p_dist.modeling.body import decoder_layers
from p2p_dist.modeling.forward import answer_states
from p2p_dist.modeling.lengths import takes_rows_apart
from p2p_dist.modeling.packing import Batch, pack
from p2p_dist.modeling.tokenization import Encoded
from p2p_dist.planning.memory import LOWER_STATES_BYTES
from p2p_dist.training.train_run import TrainRun


def lower_states_of(base: Base, runs: Sequence[TrainRun], spec: LoraSpec, zero: int) -> "LowerStates | None":
    """Kept states of a cohort's training. None where all layers have adapters, where the loss reads hidden states of
    other layers, and where rows are computed one by one or by ZeRO-3."""
    if spec.layers is None or spec.layers >= base.model.config.num_hidden_layers:
        return None
    longest = max(len(row.ids) for run in runs for row in run.rows)
    if zero == 3 or takes_rows_apart(base.model, longest) or any(run.objective for run in runs):
        return None
    return LowerStates(base.model, spec.layers)


class _LowerLayersDone(Exception):
    """End of a forward pass that computes the lower layers alone."""


class LowerStates:
    """States [n, d] of the rows of one training after the decoder layers below the adapters.

    `limit` is the number of bytes that are kept; the states of further rows are computed again whenever they are used.
    """

    def __init__(self, model: Any, adapted: int, limit: int = LOWER_STATES_BYTES):
        self._model, self._limit = model, limit
        self._layers: list[nn.Module] = decoder_layers(model)[:-adapted]
        self._kept: dict[tuple[int, ...], torch.Tensor] = {}
        self._bytes = 0
        self._given: torch.Tensor | None = None
        self._alone: torch.Tensor | None = None
        self._is_tuple = False
        self._is_computing_row = False
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
    def given(self, rows: Sequence[Encoded], batch: Batch) -> Iterator[None]:
        """Forward passes of this batch, whose rows are given in its order, begin at the upper layers inside the
        block."""
        states = self._states(rows, batch)
        if self.is_right is None:
            self.is_right = self._agree(batch, states)
            self._kept = self._kept if self.is_right else {}
        self._given = states if self.is_right else None
        try:
            yield
        finally:
            self._given = None

    def _forward(self, forward: Callable[..., Any], is_last: bool, states: torch.Tensor, *args: Any, **kw: Any) -> Any:
        """A lower layer: its own forward pass, or the given states behind the last of them."""
        if self._given is not None:
            out = self._given if is_last else states
            return (out,) if self._is_tuple else out
        output = forward(states, *args, **kw)
        self._is_tuple = isinstance(output, tuple)
        if is_last and self._is_computing_row:
            self._alone = output[0] if self._is_tuple else output
            raise _LowerLayersDone
        return output

    def _states(self, rows: Sequence[Encoded], batch: Batch) -> torch.Tensor:
        """Shape: [K, T, d], filler tokens 0."""
        states: torch.Tensor | None = None
        for row, (start, length) in zip(rows, batch.packed.places, strict=True):
            alone = self._of(row, batch.ids.device)
            if states is None:
                states = alone.new_zeros(batch.ids.numel(), alone.shape[-1])
            states[start : start + length] = alone
        assert states is not None
        return states.view(*batch.ids.shape, -1)

    def _of(self, row: Encoded, device: torch.device) -> torch.Tensor:
        """The kept states [n, d] of a row, computed where they are not kept."""
        key = tuple(row.ids)
        if key not in self._kept:
            states = self._compute(row, device)
            if self._bytes + states.nbytes > self._limit:
                return states
            self._kept[key] = states
            self._bytes += states.nbytes
        return self._kept[key]

    @torch.no_grad()
    def _compute(self, row: Encoded, device: torch.device) -> torch.Tensor:
        """One row through the lower layers."""
        batch = pack([[row]]).to(device)
        self._is_computing_row = True
        try:
            answer_states(self._model, batch.ids, batch.positions, batch.packed, batch.answers)
        except _LowerLayersDone:
            pass
        finally:
            self._is_computing_row = False
        states, self._alone = self._alone, None
        assert states is not None
        return states.reshape(-1, states.shape[-1])[: len(row.ids)].clone()

    @torch.no_grad()
    def _agree(self, batch: Batch, states: torch.Tensor) -> bool:
        """True if a batch's last hidden states are those of a whole forward pass, but for rounding."""
        expected = answer_states(self._model, batch.ids, batch.positions, batch.packed, batch.answers)
        self._given = states
        ours = answer_states(self._model, batch.ids, batch.positions, batch.packed, batch.answers)
        self._given = None
        return guard.difference(ours.float(), expected.float()) <= guard.TOLERANCE[expected.dtype]
