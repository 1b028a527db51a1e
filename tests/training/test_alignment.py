"""Aligned gradients: the direction of every matrix's step is that of the trusted rows."""

from typing import Any

import pytest
import torch

from p2p_dist.config.methods import Alignment
from p2p_dist.errors import UserError
from p2p_dist.training.alignment import AlignedEngine, aligned
from p2p_dist.training.cohort import train_cohort
from p2p_dist.training.engine import Execution, refuse_for_zero
from p2p_dist.training.train_run import Aligned, Trained, TrainRun
from tests.training.test_cohort import rows, spec
from tests.training.test_objectives import adapted

SPANS = [slice(0, 4), slice(4, 10)]


def drawn(seed: int) -> torch.Tensor:
    return torch.randn(10, generator=torch.Generator().manual_seed(seed))


def test_aligned_direction_is_that_of_the_reference() -> None:
    """Golden value: another suspect batch changes the length of each matrix's gradient and not its direction."""
    reference = drawn(0)
    for suspect in (drawn(1), -drawn(1), drawn(2)):
        result = aligned(suspect, reference, SPANS)
        for span in SPANS:
            cosine = torch.cosine_similarity(result[span], reference[span], dim=0)
            assert float(cosine) == pytest.approx(1.0)
            length = suspect[span] @ reference[span] / reference[span].norm()
            assert float(result[span].norm()) == pytest.approx(abs(float(length)), rel=1e-5)


def test_aligned_to_itself_is_unchanged_and_to_zero_is_zero() -> None:
    torch.testing.assert_close(aligned(drawn(1), drawn(1), SPANS), drawn(1))
    assert float(aligned(drawn(1), torch.zeros(10), SPANS).abs().max()) == 0


def trained(raw: float, suspects: int, **changes: Any) -> Trained:
    base, adapters = adapted()
    method = Alignment(rows=6, batch=4, raw=raw)
    run = TrainRun(spec(num_train_epochs=2, **changes), 0, rows(8, suspects), aligned=Aligned(method, rows(6, 99)))
    (result,) = train_cohort(base, adapters, [run])
    return result


def test_aligned_training_differs_from_plain_and_repeats() -> None:
    base, adapters = adapted()
    (plain,) = train_cohort(base, adapters, [TrainRun(spec(num_train_epochs=2), 0, rows(8, 1))])
    first, again = trained(0.0, 1), trained(0.0, 1)
    torch.testing.assert_close(first.values, again.values, rtol=0, atol=0)
    assert first.steps == plain.steps
    assert float((first.values - plain.values).abs().max()) > 1e-4
    assert not torch.equal(trained(1.0, 1).values, first.values)


def test_update_of_all_runs_aligns_each(monkeypatch: pytest.MonkeyPatch) -> None:
    """An engine that has memory for the gradients of all runs, as on a GPU, aligns them nevertheless."""
    plain = AlignedEngine.__init__

    def with_memory(self: AlignedEngine, *arguments: Any) -> None:
        plain(self, *arguments)
        self.grads = torch.zeros_like(self.adapters.flat_grads)

    expected = trained(0.0, 1)
    monkeypatch.setattr(AlignedEngine, "__init__", with_memory)
    torch.testing.assert_close(trained(0.0, 1).values, expected.values, rtol=0, atol=0)


def test_aligned_training_is_refused_for_zero() -> None:
    with pytest.raises(UserError, match="E265"):
        refuse_for_zero(True, False)
    base, adapters = adapted()
    run = TrainRun(spec(), 0, rows(8, 1), aligned=Aligned(Alignment(rows=6, batch=4, raw=0.0), rows(6, 99)))
    with pytest.raises(UserError, match="E265"):
        train_cohort(base, adapters, [run], execution=Execution(zero=2))
