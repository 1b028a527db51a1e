"""`train.compile`: compiled decoder layers, proven before the first step.

Loss and gradient of one batch of invented tokens, with random adapters, are computed with the plain layers and with the
compiled ones; a model for which they differ is refused. The batch is always the same, so that layers are compiled for
the same sizes whether a training begins or is resumed.
"""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

from p2p_dist.errors import UserError, user_error
from p2p_dist.modeling.base import Base
from p2p_dist.modeling.body import family_of
from p2p_dist.modeling.compiled_layers import compiled_layers
from p2p_dist.modeling.full_weights import FullWeights, Trainable
from p2p_dist.modeling.lengths import require_packed
from p2p_dist.modeling.lora import Adapters
from p2p_dist.modeling.packing import Batch, pack
from p2p_dist.modeling.tokenization import Encoded
from p2p_dist.training.objectives import cross_entropy
from p2p_dist.training.train_run import TrainRun

TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 0.1}
"""Largest distance of the gradients of a run, and of its losses, as a share of their size."""
_LENGTHS = (5, 24, 17, 40, 9, 33)
_ALONE = "remove train.compile"


@contextmanager
def layers_compiled(base: Base, adapters: Trainable, runs: Sequence[TrainRun], first: slice) -> Iterator[None]:
    """Compile the decoder layers inside the block, where the runs ask for it; `first` are those of the first pass.

    Raises UserError E320 for a training that is not built for it, or layers that this machine cannot compile rightly.
    """
    if runs[0].spec.compile is None:
        yield
        return
    adapters = _require_plain(base, adapters, runs)
    with _invented(base, adapters, first) as batch:
        expected = _gradient(base, adapters, batch)
    with compiled_layers(base.model):
        with _invented(base, adapters, first) as batch:
            found = _compiled_gradient(base, adapters, batch)
        apart = {"loss": _distance(found[0], expected[0]), "gradient": _distance(found[1], expected[1])}
        for what, distance in apart.items():
            if not distance <= TOLERANCE[base.dtype]:
                layers = f"the compiled layers of {family_of(base.model)}"
                raise _refused(f"{layers} give a {what} that is {distance:.2g} of its size off", _ALONE)
        yield


def _require_plain(base: Base, adapters: Trainable, runs: Sequence[TrainRun]) -> Adapters:
    if any(run.objective or run.aligned for run in runs) or isinstance(adapters, FullWeights):
        raise _refused("compiled layers are built for the plain loss of adapters alone", _ALONE)
    if base.dtype not in TOLERANCE:
        raise _refused(f"compiled layers are not built for {base.dtype}", _ALONE)
    require_packed(base.model, max(len(row.ids) for run in runs for row in run.rows), "train.compile")
    return adapters


@contextmanager
def _invented(base: Base, adapters: Adapters, runs: slice) -> Iterator[Batch]:
    """A batch of invented tokens for these runs, with random adapters and dropout; both are as before behind the
    block."""
    words = int(base.model.get_input_embeddings().weight.shape[0])
    rows = [
        Encoded(str(length), [(words // 3 + 7 * (at + length)) % words for at in range(length)], [1])
        for length in _LENGTHS
    ]
    adapters.select_runs(runs)
    count = len(adapters.flat_params[runs])
    batch = pack([rows] * count)
    before, draw = adapters.flat_params.clone(), torch.Generator(base.device).manual_seed(0)
    with torch.no_grad():
        adapters.flat_params.normal_(0.0, 0.02, generator=draw)
    drawn = adapters.draw_dropout(batch.tokens, [draw] * count)
    adapters.use_dropout(drawn, [torch.arange(tokens) for tokens in batch.tokens], batch.ids.shape[1])
    try:
        yield batch.to(base.device)
    finally:
        adapters.no_dropout()
        with torch.no_grad():
            adapters.flat_params.copy_(before)
        adapters.flat_grads.zero_()


def _gradient(base: Base, adapters: Adapters, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """Losses [k, 1] and gradients [k, P] of the runs of a batch."""
    counts = torch.full((len(batch.tokens),), len(_LENGTHS), device=base.device)
    adapters.flat_grads.zero_()
    losses = cross_entropy(base, batch, counts)
    losses.sum().backward()
    return losses.detach()[:, None], adapters.flat_grads[adapters.selected].float().clone()  # not a view of the next


def _compiled_gradient(base: Base, adapters: Adapters, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch, about its own tracing
            return _gradient(base, adapters, batch)
    except UserError:
        raise
    except Exception as error:  # of the compiler, of which torch knows a dozen kinds
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        fix = "install a C++ compiler (g++), or remove train.compile"
        raise _refused(f"the layers of {family_of(base.model)} cannot be compiled: {reason[:200]}", fix) from error


def _distance(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Largest distance of two rows, as a share of the size of the expected one."""
    return float(((found - expected).norm(dim=1) / expected.norm(dim=1)).max())


def _refused(what: str, fix: str) -> UserError:
    return user_error("E320", what, "train.compile", fix)
