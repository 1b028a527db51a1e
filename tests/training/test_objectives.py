"""Distillation: the loss by hand, a teacher that is looked up once, and a student that comes to answer as it does."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.nn import functional

from p2p_dist.config.methods import Distillation
from p2p_dist.config.study import LoraSpec
from p2p_dist.errors import UserError
from p2p_dist.modeling.base import Base, load_base
from p2p_dist.modeling.forward import LOSSES_AT_ONCE, answer_logits, answer_states
from p2p_dist.modeling.lora import Adapters
from p2p_dist.modeling.packing import pack
from p2p_dist.modeling.tokenization import Encoded
from p2p_dist.training.cohort import Observer, train_cohort
from p2p_dist.training.engine import Execution
from p2p_dist.training.objectives import cross_entropy, distillation
from p2p_dist.training.teacher import taught
from p2p_dist.training.train_run import Trained, TrainRun
from tests.training.test_checkpoint import Keeper
from tests.training.test_cohort import IDENTITY, rows, spec

WEIGHTS: dict[str, float] = {"label": 5.0, "soft": 0.3, "hidden": 0.2, "temperature": 2.0}
OBJECTIVE = Distillation.model_validate(WEIGHTS)


def drawn(adapters: Adapters, seed: int) -> torch.Tensor:
    return torch.randn(adapters.size, generator=torch.Generator().manual_seed(seed)) * 0.2


def adapted(runs: int = 1) -> tuple[Base, Adapters]:
    base = load_base(IDENTITY, {}, "float32")
    return base, Adapters(base.model, LoraSpec(r=4), runs)


def student_and_rows(count: int = 6) -> tuple[Base, Adapters, list[Encoded]]:
    """A student (adapter 2) and rows that a teacher (adapter 1) has seen."""
    base, adapters = adapted()
    seen = taught(base, adapters, 0, drawn(adapters, 1), rows(count, 0))
    adapters.load(0, drawn(adapters, 2))
    return base, adapters, seen


def loss(base: Base, seen: list[Encoded], **weights: float) -> torch.Tensor:
    batch = pack([seen])
    return distillation(base, batch, torch.tensor([len(batch.targets)]), **{**WEIGHTS, **weights})


def test_a_teacher_is_what_its_adapter_makes_of_each_row() -> None:
    base, adapters, seen = student_and_rows()
    adapters.load(0, drawn(adapters, 1))
    for row in seen:
        batch = pack([[row]])
        with torch.no_grad():
            states = answer_states(base.model, batch.ids, batch.positions, batch.packed, batch.answers)
        assert row.taught is not None
        assert not row.taught.requires_grad
        torch.testing.assert_close(row.taught, states)


def test_the_loss_by_hand() -> None:
    base, adapters, seen = student_and_rows()
    total = torch.zeros(())
    for row in seen:
        batch, found = pack([[row]]), {}
        for who, seed in (("teacher", 1), ("student", 2)):
            adapters.load(0, drawn(adapters, seed))
            with torch.no_grad():
                where = (base.model, batch.ids, batch.positions, batch.packed, batch.answers)
                found[who] = (answer_logits(*where)[0], answer_states(*where)[0])
        (teacher, far), (student, near) = found["teacher"], found["student"]
        p, q = torch.softmax(teacher / 2, 0), torch.softmax(student / 2, 0)
        total += (
            5 * functional.cross_entropy(student[None], torch.tensor(row.targets))
            + 0.3 * 4 * (p * (p / q).log()).sum()
            + 0.2 * (near - far).pow(2).sum()
        )
    torch.testing.assert_close(loss(base, seen).detach(), total[None] / len(seen))


def test_a_student_that_is_its_teacher_learns_from_labels_alone() -> None:
    base, adapters, seen = student_and_rows()
    adapters.load(0, drawn(adapters, 1))
    batch = pack([seen])
    torch.testing.assert_close(loss(base, seen), 5 * cross_entropy(base, batch, torch.tensor([len(seen)])))


def test_gradients_reach_the_student_and_no_teacher() -> None:
    base, adapters, seen = student_and_rows()
    loss(base, seen, label=0.0).sum().backward()
    assert float(adapters.flat_grads.abs().max()) > 0
    assert all(row.taught is not None and row.taught.grad is None for row in seen)


def test_long_answers_are_the_sum_of_their_pieces() -> None:
    base, adapters = adapted()
    long = [replace(row, ids=[*row.ids, *range(40)], targets=list(range(40))) for row in rows(20, 4)]
    seen = taught(base, adapters, 0, drawn(adapters, 1), long)
    adapters.load(0, drawn(adapters, 2))
    assert 40 * len(seen) > LOSSES_AT_ONCE > 40 * len(seen) // 2
    half = len(seen) // 2
    whole = loss(base, seen)
    whole.sum().backward()
    gradient = adapters.flat_grads.clone()
    adapters.flat_grads.zero_()
    halves = [loss(base, part) / 2 for part in (seen[:half], seen[half:])]
    torch.stack(halves).sum().backward()
    torch.testing.assert_close(whole, halves[0] + halves[1])
    torch.testing.assert_close(adapters.flat_grads, gradient, atol=1e-5, rtol=1e-4)


def student(**changes: Any) -> TrainRun:
    _, _, seen = student_and_rows(24)
    return TrainRun(spec(**changes), 0, seen, objective=OBJECTIVE)


def trained(
    runs: list[TrainRun], observer: Observer | None = None, execution: Execution | None = None
) -> list[Trained]:
    base, adapters = adapted(len(runs))
    return train_cohort(base, adapters, runs, observer, execution or Execution())


def test_distillation_student_answers_as_its_teacher() -> None:
    """It comes to answer as its teacher whatever the labels say."""
    run = replace(student(num_train_epochs=20), objective=OBJECTIVE.model_copy(update={"label": 0.0}))
    (found,) = trained([run])
    base, adapters = adapted()
    apart = []
    for values in (torch.zeros(adapters.size), found.values):
        adapters.load(0, values)
        apart.append(float(loss(base, list(run.rows), label=0.0).detach()))
    assert apart[1] < 0.3 * apart[0]


def test_resumed_at_any_step_gives_the_same_bits() -> None:
    run, keeper = student(), Keeper()
    (whole,) = trained([run], keeper)
    for state in keeper.states.values():
        (resumed,) = trained([replace(run, resume=state)])
        assert torch.equal(resumed.values, whole.values)


@pytest.mark.parametrize("micro_batch", [None, 3])
def test_a_cohort_is_its_runs_alone(micro_batch: int | None) -> None:
    execution = Execution(micro_batch=micro_batch)
    runs = [student(), replace(student(learning_rate=3e-3), seed=1)]
    for together, run in zip(trained(runs, execution=execution), runs, strict=True):
        torch.testing.assert_close(together.values, trained([run])[0].values, atol=1e-5, rtol=0)


def test_zero_is_refused() -> None:
    with pytest.raises(UserError, match="E265"):
        trained([student()], execution=Execution(zero=2))
