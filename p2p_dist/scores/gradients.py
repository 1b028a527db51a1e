"""Method `answer_gradients`: the gradient of every training row's loss with respect to the output projection (GraCeFul,
arXiv 2412.02454; GradSentry, arXiv 2605.26574).

The loss of a row is the mean cross-entropy of its T answer tokens. Its gradient is G = A^T H / T with A = p - e [T, V]
(predicted distribution minus one-hot target) and H [T, d] the last hidden states, so one forward pass gives it. The
two-dimensional DCT of an outer product is the outer product of two DCTs, inner products <G_i, G_j> are sums over pairs
of tokens, and the singular values of G are the roots of the eigenvalues of (A A^T)(H H^T), which is T x T. Where the
embeddings are tied this is the gradient of their role as output alone.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from p2p_dist.config.score_methods import AnswerGradients
from p2p_dist.data.clustering import require_pairs
from p2p_dist.errors import user_error
from p2p_dist.modeling.batching import by_length
from p2p_dist.modeling.forward import answer_states, logits_of
from p2p_dist.modeling.packing import pack
from p2p_dist.modeling.tokenization import Encoded
from p2p_dist.scores.context import Context, Line
from p2p_dist.scores.states import largest

TOKENS_PER_BATCH = 2048
MOST_BYTES = 8 << 30
"""Largest size of the kept parts of A and H of all rows."""
TOKENS_AT_ONCE = 1024
"""Tokens whose inner products with all others are computed at once."""
SINGULAR_VALUES = 16
"""Singular values of which the entropy is taken (released code of GradSentry: `svd_lowrank(q=16)`)."""


@dataclass(frozen=True)
class RowGradient:
    """Low frequencies of A [T, V / block] and H [T, d / block] of one row, and entropies of its singular values."""

    errors: torch.Tensor
    states: torch.Tensor
    entropy: float
    entropy_whole: float


def score(context: Context, method: AnswerGradients) -> list[Line]:
    """One line per training row.

    `coordinates`: the low-frequency block of G by its first `components` principal components, each scaled to unit
    variance (GraCeFul). `entropy`: of the singular values of the block of the raw G that GradSentry cuts out, over log
    16; `entropy_whole`: of G as it is. `tokens`: T.

    Raises UserError E279 for more rows or answer tokens than fit in memory.
    """
    encoded, _ = context.encoder.rows(context.built.train)
    _require_room(context, encoded, method.block)
    by_index: dict[int, RowGradient] = {}
    for index, gradient in _gradients(context, encoded, method.block):
        by_index[index] = gradient
        context.on_progress(len(by_index), len(encoded))
    gradients = [by_index[index] for index in range(len(encoded))]
    coordinates = unit_components(inner_products(gradients), method.components)
    return [
        {
            "set": "train",
            "id": row.id,
            "coordinates": [round(number, 5) for number in of_row],
            "entropy": round(gradient.entropy, 6),
            "entropy_whole": round(gradient.entropy_whole, 6),
            "tokens": len(row.targets),
        }
        for row, gradient, of_row in zip(encoded, gradients, coordinates.tolist(), strict=True)
    ]


def _require_room(context: Context, encoded: list[Encoded], block: int) -> None:
    require_pairs(len(encoded))
    tokens = sum(len(row.targets) for row in encoded)
    config = context.base.model.config.get_text_config()
    size = tokens * (config.vocab_size + config.hidden_size) // block * 4
    if size > MOST_BYTES:
        what = (
            f"gradients of {tokens:,} answer tokens take {size / 1e9:.0f} GB; at most {MOST_BYTES / 1e9:.0f} are kept"
        )
        raise user_error("E279", what, "defense", "lower rows.train, or raise defense.block")


@torch.no_grad()
def _gradients(context: Context, encoded: list[Encoded], block: int) -> Iterator[tuple[int, RowGradient]]:
    """The gradient of every row, with its number."""
    for indices in by_length([len(row.ids) for row in encoded], TOKENS_PER_BATCH):
        batch = pack([[encoded[index] for index in indices]]).to(context.base.device)
        states = answer_states(context.base.model, batch.ids, batch.positions, batch.packed, batch.answers)
        errors = torch.softmax(logits_of(context.base.model, states), dim=-1)
        errors[torch.arange(len(errors), device=errors.device), batch.targets] -= 1
        lengths = [len(encoded[index].targets) for index in indices]
        for index, of_errors, of_states in zip(
            indices, errors.split(lengths), states.float().split(lengths), strict=True
        ):
            yield index, row_gradient(of_errors, of_states, block)


def row_gradient(errors: torch.Tensor, states: torch.Tensor, block: int) -> RowGradient:
    """Shapes: errors A [T, V], states H [T, d]. The factor 1 / T is in the kept errors."""
    rows, columns = max(1, errors.shape[1] // block), max(1, states.shape[1] // block)
    return RowGradient(
        (dct(errors)[:, :rows] / len(errors)).cpu(),
        dct(states)[:, :columns].cpu(),
        entropy(errors[:, :rows], states[:, :columns]),
        entropy(errors, states),
    )


def dct(signals: torch.Tensor) -> torch.Tensor:
    """Unnormalised DCT-II along the last dimension, as of `scipy.fft.dct`. Shapes: [T, n] -> [T, n]."""
    n = signals.shape[-1]
    folded = torch.cat([signals[..., ::2], signals[..., 1::2].flip(-1)], dim=-1)
    angles = torch.arange(n, device=signals.device, dtype=signals.dtype) * (-math.pi / (2 * n))
    return 2 * (torch.fft.fft(folded) * torch.polar(torch.ones_like(angles), angles)).real


def entropy(errors: torch.Tensor, states: torch.Tensor) -> float:
    """Entropy of the normalised singular values of A^T H, over log 16; 0 for a single token. Shapes: [T, m], [T, k]."""
    left, right = errors.double(), states.double()
    # (A A^T)(H H^T) has the eigenvalues of L^T (H H^T) L with A A^T = L L^T, which is symmetric.
    values, vectors = torch.linalg.eigh(left @ left.T)
    root = vectors * values.clamp(min=0).sqrt()
    squares = torch.linalg.eigvalsh(root.T @ (right @ right.T) @ root).clamp(min=0)
    singular = squares.sqrt().flip(0)[:SINGULAR_VALUES]
    total = float(singular.sum())
    if total == 0:
        return 0.0
    shares = singular / total
    return float(-torch.xlogy(shares, shares).sum()) / math.log(SINGULAR_VALUES)


def inner_products(gradients: list[RowGradient]) -> torch.Tensor:
    """Inner products of the kept blocks of all rows, [N, N] in fp64."""
    errors, states = torch.cat([one.errors for one in gradients]), torch.cat([one.states for one in gradients])
    owner = torch.tensor([index for index, one in enumerate(gradients) for _ in range(len(one.errors))])
    products = torch.zeros(len(gradients), len(gradients), dtype=torch.float64)
    for piece, of_errors, of_states in zip(
        owner.split(TOKENS_AT_ONCE), errors.split(TOKENS_AT_ONCE), states.split(TOKENS_AT_ONCE), strict=True
    ):
        pairs = ((of_errors @ errors.T) * (of_states @ states.T)).double()
        by_row = torch.zeros(len(pairs), len(gradients), dtype=torch.float64).index_add_(1, owner, pairs)
        products.index_add_(0, piece, by_row)
    return products


def unit_components(products: torch.Tensor, count: int) -> torch.Tensor:
    """Principal components of points given by inner products [N, N], each of unit variance: [N, at most `count`]."""
    centred = products - products.mean(0) - products.mean(1, keepdim=True) + products.mean()
    values, vectors = torch.linalg.eigh((centred + centred.T) / 2)
    return vectors[:, largest(values, count)] * math.sqrt(len(products))
