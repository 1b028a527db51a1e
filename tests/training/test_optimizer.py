"""The update that is decided on a GPU is the update that the host would have decided, bit for bit."""

import math

import pytest
import torch

from p2p_dist.config.study import LoraSpec, TrainSpec
from p2p_dist.modeling.lora import Adapters
from p2p_dist.modeling.random_init import config_of
from p2p_dist.training.optimizer import CohortOptimizer, clip_scale, clipped

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


SHAPE = {"architecture": "qwen3", "layers": 1, "hidden": 8, "intermediate": 8, "heads": 2, "kv_heads": 1}
SHAPE |= {"head_dim": 4, "vocab": 16, "tied_embeddings": True}


def test_runs_updated_together_are_those_updated_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each with its own rate, limit and end; a run with a gradient or loss that is not finite stays as it is."""
    specs = [
        TrainSpec(learning_rate=0.1, lora=LoraSpec(r=2), max_grad_norm=limit) for limit in (0.5, None, 1e6, 1.0, 1.0)
    ]
    model_class, config = config_of(SHAPE)
    adapters = Adapters(model_class(config), specs[0].lora, len(specs))
    draw = torch.Generator().manual_seed(0)
    starts = torch.randn(len(specs), adapters.size, generator=draw)
    one_by_one, together = (CohortOptimizer(adapters, specs, [9] * len(specs), starts.clone()) for _ in range(2))
    together.stacked = torch.stack([master.detach() for master in together.masters])
    together.masters = [torch.nn.Parameter(numbers) for numbers in together.stacked.unbind()]
    for optimizer, master in zip(together.adamw, together.masters, strict=True):
        optimizer.param_groups[0]["params"] = [master]
    for step in range(3):
        grads, losses = torch.randn(starts.shape, generator=draw), torch.ones(len(specs))
        runs = [0, 1, 2, 4] if step == 1 else [0, 1, 2, 3, 4]
        if step == 2:
            grads[3, 5], losses[4] = math.nan, math.inf
        norms = [one_by_one.step(run, step, grads[run], losses[run]) for run in runs]
        torch.testing.assert_close(
            together.step_together(runs, [step] * len(runs), grads.clone(), losses), torch.stack(norms), equal_nan=True
        )
    for run in range(len(specs)):
        torch.testing.assert_close(together.values(run), one_by_one.values(run))
        assert not torch.equal(together.values(run), starts[run])
        torch.testing.assert_close(adapters.flat_params[run], one_by_one.values(run))
