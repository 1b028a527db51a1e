"""The update that is decided on a GPU is the update that the host would have decided, bit for bit."""

import math

import pytest
import torch

from p2p_dist.training.optimizer import clip_scale, clipped

pytestmark = pytest.mark.torch


@pytest.mark.parametrize("limit", [0.3, 1.0, 7.0, 1e4])
def test_clip_scale_gives_the_bits_of_the_host(limit: float) -> None:
    grad = torch.randn(999, generator=torch.Generator().manual_seed(0))
    norm = grad.norm()
    assert torch.equal(grad * clip_scale(norm, limit), clipped(grad, norm, limit))
    assert clipped(grad, norm, None) is grad


def test_clip_scale_of_no_gradient_is_one() -> None:
    assert float(clip_scale(torch.tensor(0.0), 1.0)) == 1.0
    assert math.isnan(float(clip_scale(torch.tensor(math.nan), 1.0))) is False


@pytest.mark.parametrize("skip", [False, True])
def test_fused_adamw_skips_a_step_on_the_device(skip: bool) -> None:
    """`found_inf` changes nothing where it is 0, and nothing at all, the count of steps included, where it is 1."""
    draw = torch.Generator().manual_seed(1)
    start, grads = torch.randn(50, generator=draw), torch.randn(3, 50, generator=draw)

    def run(found: list[float | None]) -> tuple[torch.Tensor, float]:
        numbers = torch.nn.Parameter(start.clone())
        adamw = torch.optim.AdamW([numbers], lr=0.1, fused=True)
        for grad, value in zip(grads, found, strict=True):
            numbers.grad = torch.full_like(grad, math.nan) if value else grad
            if value is not None:
                adamw.found_inf = torch.tensor(value)  # type: ignore[attr-defined]
            adamw.step()
        return numbers.detach(), float(adamw.state[numbers]["step"])

    plain, steps = run([None, None, None])
    decided, counted = run([0.0, 0.0, 1.0] if skip else [0.0, 0.0, 0.0])
    assert torch.equal(plain, decided) is not skip
    assert counted == (steps - 1 if skip else steps)
    assert bool(decided.isfinite().all())
