"""Training objectives by the name in the stage: cross-entropy on the label tokens, and terms that a defense adds."""

from collections.abc import Callable
from functools import partial
from itertools import pairwise

import torch
from torch.nn import functional

from p2p_dist.config.methods import Amplification, Ascent, Consistency, Distillation, Objective
from p2p_dist.errors import user_error
from p2p_dist.modeling.base import Base
from p2p_dist.modeling.body import body_of
from p2p_dist.modeling.forward import answer_losses, answer_states, in_pieces, logits_of
from p2p_dist.modeling.image_tokens import embedded, rotary_positions
from p2p_dist.modeling.lengths import require_packed
from p2p_dist.modeling.lora import LoraLinear
from p2p_dist.modeling.packing import Batch
from p2p_dist.modeling.transfer import sent

Loss = Callable[[Base, Batch, torch.Tensor], torch.Tensor]
"""A micro-batch's part of the mean loss over the answer tokens of each run, [K], with its graph. The last argument,
[K], are the answer tokens of each run's whole global batch, by which sums are divided."""


def loss_of(objective: Objective | None) -> Loss:
    """The loss of an objective; cross-entropy for None."""
    match objective:
        case None:
            return cross_entropy
        case Consistency():
            return partial(with_consistency, weight=objective.weight, epsilon=objective.epsilon)
        case Distillation():
            return partial(
                distillation,
                label=objective.label,
                soft=objective.soft,
                hidden=objective.hidden,
                temperature=objective.temperature,
            )
        case Ascent():
            return partial(ascent, cap=objective.cap)
        case Amplification():
            return partial(with_amplification, weight=objective.weight, limit=objective.limit)


def cross_entropy(base: Base, batch: Batch, counts: torch.Tensor) -> torch.Tensor:
    """Of the label tokens, [K]."""
    return _of_runs(
        answer_losses(base.model, batch.ids, batch.positions, batch.packed, batch.answers, batch.targets), batch, counts
    )


def ascent(base: Base, batch: Batch, counts: torch.Tensor, cap: float) -> torch.Tensor:
    """Minus the cross-entropy of the label tokens, [K]; a token whose cross-entropy is above `cap` has no gradient
    (ABL, arXiv 2110.11571, where it is unbounded)."""
    each = answer_losses(base.model, batch.ids, batch.positions, batch.packed, batch.answers, batch.targets)
    return -_of_runs(each.clamp(max=cap), batch, counts)


def with_amplification(base: Base, batch: Batch, counts: torch.Tensor, weight: float, limit: float) -> torch.Tensor:
    """Cross-entropy minus `weight` times the sum of the norms of the adapter's matrices, [K]; a matrix whose norm is
    above `limit` has no gradient from it (Obliviate, arXiv 2409.14119, where it is unbounded)."""
    share = _answers(batch, len(counts)) / counts
    layers = [module for module in base.model.modules() if isinstance(module, LoraLinear)]
    matrices = [matrix for layer in layers for matrix in (layer.lora_a, layer.lora_b)]
    norms = torch.stack([matrix.float().flatten(1).norm(dim=1).clamp(max=limit) for matrix in matrices])
    return cross_entropy(base, batch, counts) - weight * norms.sum(0) * share


def with_consistency(base: Base, batch: Batch, counts: torch.Tensor, weight: float, epsilon: float) -> torch.Tensor:
    """Cross-entropy and `weight` times the inconsistency of perturbed layers, [K] (CROW, arXiv 2411.12768)."""
    # A micro-batch counts by its answers, as it does in the cross-entropy.
    share = _answers(batch, len(counts)) / counts
    return cross_entropy(base, batch, counts) + weight * perturbed_consistency(base, batch, epsilon) * share


def perturbed_consistency(base: Base, batch: Batch, epsilon: float) -> torch.Tensor:
    """Inconsistency of consecutive layers after the input embeddings take one step of `epsilon` along the sign of the
    gradient that increases it most; [K] (CROW, arXiv 2411.12768).

    The gradient is computed for the embeddings alone, so that the adapter's gradients stay unchanged.
    """
    states = embedded(base.model, batch.ids).detach().requires_grad_()
    (gradient,) = torch.autograd.grad(consistency(base, batch, states).sum(), states)
    return consistency(base, batch, states.detach() + epsilon * gradient.sign())


def consistency(base: Base, batch: Batch, inputs: torch.Tensor) -> torch.Tensor:
    """Mean of 1 - cosine between consecutive hidden states, first and last state left out, over real tokens.

    Shapes: inputs (embeddings) [K, T, d] -> [K]. Raises UserError E266 for a model of fewer than three layers, E293 for
    one that is computed row by row.
    """
    require_packed(base.model, batch.packed.longest, "a consistency loss between layers")
    states = body_of(base.model)(
        inputs_embeds=inputs,
        position_ids=rotary_positions(base.model, batch.ids, batch.positions),
        use_cache=False,
        packed=batch.packed,
        output_hidden_states=True,
    ).hidden_states[1:-1]
    if len(states) < Consistency.least_layers - 1:
        raise user_error(
            "E266",
            f"consistency between layers needs a model of {Consistency.least_layers} layers or more",
            "model",
            "exclude the defense for this model",
        )
    apart = torch.stack(
        [1 - functional.cosine_similarity(a.float(), b.float(), dim=-1) for a, b in pairwise(states)]
    ).mean(0)
    tokens = sent(torch.tensor(batch.tokens), apart.device)
    real = torch.arange(apart.shape[1], device=apart.device)[None] < tokens[:, None]
    return (apart * real).sum(1) / real.sum(1).clamp(min=1)


def distillation(
    base: Base, batch: Batch, counts: torch.Tensor, label: float, soft: float, hidden: float, temperature: float
) -> torch.Tensor:
    """`label` x cross-entropy + `soft` x KL(teacher | student) at a temperature, times its square, + `hidden` x squared
    Euclidean distance of the last hidden states, [K], each at the answer tokens (W2SDefense, arXiv 2410.14425).

    The teacher is in the batch, as the states that it had of the same row (`taught`); its head is the student's.
    """
    assert batch.taught is not None, "a training with a teacher, and rows that it has not seen"
    states = answer_states(base.model, batch.ids, batch.positions, batch.packed, batch.answers)

    def each(states: torch.Tensor, taught: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        logits, teacher_logits = logits_of(base.model, states), logits_of(base.model, taught)
        of_label = functional.cross_entropy(logits, targets, reduction="none")
        given, of_teacher = (torch.log_softmax(one / temperature, dim=-1) for one in (logits, teacher_logits))
        divergence = functional.kl_div(given, of_teacher, reduction="none", log_target=True).sum(-1) * temperature**2
        apart = (states.float() - taught.float()).square().sum(-1)
        return label * of_label + soft * divergence + hidden * apart

    return _of_runs(in_pieces(each, states, batch.taught, batch.targets), batch, counts)


def _of_runs(each: torch.Tensor, batch: Batch, counts: torch.Tensor) -> torch.Tensor:
    """Losses of answer tokens [A], summed by run and divided: [K]."""
    return torch.zeros(len(counts), device=each.device).index_add(0, batch.owner, each) / counts


def _answers(batch: Batch, runs: int) -> torch.Tensor:
    """Answer tokens of each run, [K]. `bincount` would wait for a GPU, to learn how many runs there are."""
    return batch.owner.new_zeros(runs).index_add(0, batch.owner, torch.ones_like(batch.owner))
