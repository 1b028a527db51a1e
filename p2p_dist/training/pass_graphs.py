"""CUDA graphs of training passes: a GPU repeats the forward and backward pass of batches of one form, and the host
launches the whole instead of each operation.

A graph repeats operations with the addresses and numbers of the batch that it was recorded with, so nothing but the
tensors of a batch may enter a pass. This is proven for every form on two batches, the recorded one and the next: losses
and gradients have to be those of the plain pass, to the bit where kernels are deterministic. Where they are not,
the training continues without graphs, and says so.
"""

import re
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from p2p_dist.errors import user_error
from p2p_dist.modeling.attention import PackedRows
from p2p_dist.modeling.base import Base
from p2p_dist.modeling.full_weights import FullWeights, Trainable
from p2p_dist.modeling.image_tokens import has_image_tokens
from p2p_dist.modeling.lengths import require_length, takes_rows_apart
from p2p_dist.modeling.lora import Adapters
from p2p_dist.modeling.packing import Batch
from p2p_dist.modeling.varlen_attention import NotAvailable, RowEnds
from p2p_dist.training.train_run import TrainRun

MOST_FORMS = 64
"""Forms that are recorded; batches of further ones pass as they are."""
_IS_ABOUT_RECORDING = re.compile("captur|graph", re.IGNORECASE)
_PROOFS = 2
_CLOSE = 0.02
"""Largest distance of two passes of a run with kernels that are not deterministic, as a share of their size."""

Pass = Callable[[Batch, torch.Tensor], torch.Tensor]
"""Losses [k] of a batch and the answer tokens [k] of its runs; their gradients are added to those of the adapters."""


class Recording(Protocol):
    """A recorded pass. `losses` [k] are in memory that every repetition writes; `pool` names the memory of what lies
    between them and the inputs, which further passes may share: they never overlap."""

    losses: torch.Tensor
    pool: Any

    def replay(self) -> None:
        """Repeat the pass on what its memory holds now."""


class CudaGraph:
    """A pass recorded by CUDA, which does not execute it."""

    def __init__(self, compute: Callable[[], torch.Tensor], pool: Any):
        self._graph = torch.cuda.CUDAGraph()
        # Threads of NCCL ask for events meanwhile, which a recording of all threads would not allow.
        with torch.cuda.graph(self._graph, pool=pool, capture_error_mode="thread_local"):
            self.losses = compute()
        self.pool = self._graph.pool()

    def replay(self) -> None:
        """Repeat the pass on what its memory holds now."""
        self._graph.replay()


class BatchMemory:
    """Memory from which recorded passes read their batches. All forms share it: passes never overlap."""

    def __init__(self) -> None:
        self._blocks: dict[int, torch.Tensor] = {}

    def places(self, tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """A place for each tensor, with its numbers. Where memory is too small it is made anew; passes that were
        recorded before keep theirs."""
        places = []
        for number, tensor in enumerate(tensors):
            block = self._blocks.get(number)
            if block is None or len(block) < tensor.numel():
                block = self._blocks[number] = torch.empty(tensor.numel(), dtype=tensor.dtype, device=tensor.device)
            places.append(block[: tensor.numel()].view(tensor.shape).copy_(tensor))
        return places


@dataclass
class _Form:
    """Batches of one form. `memory` is where the recorded pass reads them, in the order of `_tensors`."""

    memory: list[torch.Tensor] | None = None
    recording: Recording | None = None
    proofs: int = 0


class PassGraphs:
    """Passes of one training, recorded by their forms. Gradients of the runs of a pass are zero when it begins."""

    def __init__(self, adapters: Adapters, compute: Pass, is_exact: bool):
        self._adapters, self._compute, self._is_exact = adapters, compute, is_exact
        self._forms: dict[Hashable, _Form] = {}
        self._memory = BatchMemory()
        self._pool: Any = None
        self.replayed = self.plain = 0
        """Passes so far that were repeated by a graph alone, and all others."""
        self.refusal = ""
        """The reason why no pass is repeated any more."""

    def losses(self, runs: slice, batch: Batch, counts: torch.Tensor) -> torch.Tensor:
        """As the pass itself, of these runs."""
        form = None if self.refusal or batch.packed.ends is None else self._form_of(runs, batch)
        if form is None:
            self.plain += 1
            return self._compute(batch, counts)
        if form.proofs < _PROOFS:
            self.plain += 1
            return self._proven(form, runs, batch, counts)
        self.replayed += 1
        return self._repeated(form, batch, counts)

    def summary(self) -> str:
        """One line about the passes so far."""
        forms = sum(form.proofs == _PROOFS for form in self._forms.values())
        line = f"CUDA graphs: {self.replayed} of {self.replayed + self.plain} passes repeated, {forms} forms of batches"
        return f"{line}; stopped: {self.refusal}" if self.refusal else line

    def _form_of(self, runs: slice, batch: Batch) -> _Form | None:
        """The form of a batch that was seen before and has a graph, or gets one."""
        shapes = tuple(tuple(each.shape) for each in self._tensors(batch, batch.ids))
        assert batch.packed.ends is not None
        key = (runs.start, runs.stop, batch.packed.ends.longest, shapes)
        if key not in self._forms and len(self._forms) < MOST_FORMS:
            self._forms[key] = _Form()  # the first batch of a form loads its kernels
            return None
        return self._forms.get(key)

    def _proven(self, form: _Form, runs: slice, batch: Batch, counts: torch.Tensor) -> torch.Tensor:
        """The plain pass, with that of the graph beside it."""
        grads = self._adapters.flat_grads[runs]
        losses = self._compute(batch, counts)
        expected = grads.clone()
        try:
            if form.recording is None:
                self._record(form, runs, batch, counts)
            grads.zero_()
            found = self._repeated(form, batch, counts)
        except NotAvailable:
            self.refusal = "no variable-length attention for this model on this device"
        else:
            if agree(found, losses, self._is_exact) and agree(grads, expected, self._is_exact):
                form.proofs += 1
            else:
                self.refusal = "a recorded pass gave other numbers than the plain one"
        grads.copy_(expected)
        return losses

    def _record(self, form: _Form, runs: slice, batch: Batch, counts: torch.Tensor) -> None:
        """Record the pass on memory that further batches will lie in. Raises UserError E321 and NotAvailable."""
        assert batch.packed.ends is not None
        form.memory = self._memory.places(self._tensors(batch, counts))
        ids, positions, answers, targets, owner, ends, own_counts, *masks = form.memory
        rows = PackedRows((), ends, ends=RowEnds(ends, batch.packed.ends.longest), bound=batch.packed.longest)
        own = Batch(ids, positions, rows, answers, targets, owner, batch.tokens)
        dropout, before = self._adapters.dropout, self._adapters.dropout.masks

        def compute() -> torch.Tensor:
            self._adapters.select_runs(runs, again=True)  # autograd runs where its leaves were made
            return self._compute(own, own_counts)

        dropout.masks = masks[0] if masks else None
        try:
            form.recording = CudaGraph(compute, self._pool)
            self._pool = form.recording.pool
        except RuntimeError as error:
            reason = str(error).partition("\n")[0]
            # All else is lack of memory, whose message speaks of graphs as well, or a GPU at fault.
            if isinstance(error, torch.OutOfMemoryError) or not _IS_ABOUT_RECORDING.search(reason):
                raise
            what = f"a training pass cannot be recorded as a CUDA graph: {reason[:200]}"
            raise user_error("E321", what, "cuda_graphs", "remove cuda_graphs from the cluster file") from error
        finally:
            dropout.masks = before
            self._adapters.select_runs(runs, again=True)

    def _repeated(self, form: _Form, batch: Batch, counts: torch.Tensor) -> torch.Tensor:
        assert form.memory is not None
        assert form.recording is not None
        for memory, current in zip(form.memory, self._tensors(batch, counts), strict=True):
            memory.copy_(current)
        form.recording.replay()
        return form.recording.losses.clone()

    def _tensors(self, batch: Batch, counts: torch.Tensor) -> list[torch.Tensor]:
        """All that enters a pass but the weights."""
        masks = self._adapters.dropout.masks
        assert batch.packed.ends is not None
        own = [batch.ids, batch.positions, batch.answers, batch.targets, batch.owner, batch.packed.ends.ends, counts]
        return own if masks is None else [*own, masks]


def agree(found: torch.Tensor, expected: torch.Tensor, is_exact: bool) -> bool:
    """True for the same numbers of every run or, where they are not exact, for close ones. Shapes: [K, ...]."""
    same = (found == expected) | (found.isnan() & expected.isnan())
    if is_exact:
        return bool(same.all())
    apart, size = (
        each.float().view(len(each), -1).norm(dim=1)
        for each in ((found - expected).masked_fill(same, 0), expected.masked_fill(same & ~expected.isfinite(), 0))
    )
    return bool((apart <= _CLOSE * size).all())


def reason_against(
    base: Base, adapters: Trainable, runs: Sequence[TrainRun], keeps_lower_states: bool, zero: int
) -> str:
    """The reason why passes of a training are not repeated as graphs; empty where they may be.

    Raises UserError E294 for a row that is too long for the model: a repeated pass would not notice it.
    """
    longest = max((len(row.ids) for run in runs for row in run.rows), default=0)
    require_length(base.model, longest)
    reasons = {
        "ZeRO": zero > 0,
        "full-parameter fine-tuning": isinstance(adapters, FullWeights),
        "a loss of its own": any(run.objective is not None for run in runs),
        "aligned gradients": any(run.aligned is not None for run in runs),
        "kept states of lower layers": keeps_lower_states,
        "images": has_image_tokens(base.model),
        "rows that are computed one by one": takes_rows_apart(base.model, longest),
    }
    return ", ".join(reason for reason, holds in reasons.items() if holds)
