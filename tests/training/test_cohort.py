"""Training: the same alone and in a cohort, the same twice, and honest about divergence."""

import math
import weakref
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from p2p_dist.config.model import resolve_model
from p2p_dist.config.study import LoraSpec, TrainSpec
from p2p_dist.modeling.base import load_base
from p2p_dist.modeling.lora import Adapters
from p2p_dist.modeling.tokenization import Encoded
from p2p_dist.scheduling.study import configs_dir
from p2p_dist.training import cohort
from p2p_dist.training.batches import Schedule
from p2p_dist.training.cohort import Cohort, Observer, train_cohort
from p2p_dist.training.engine import Execution, PlainEngine
from p2p_dist.training.optimizer import learning_rate
from p2p_dist.training.train_run import Trained, TrainRun

IDENTITY = resolve_model("tiny", configs_dir() / "models").identity


def rows(count: int, seed: int) -> list[Encoded]:
    draw = torch.Generator().manual_seed(seed)
    lengths = torch.randint(3, 20, (count,), generator=draw).tolist()
    return [
        Encoded(str(at), torch.randint(0, 256, (n,), generator=draw).tolist(), [at % 2 + 48])
        for at, n in enumerate(lengths)
    ]


def spec(**changes: Any) -> TrainSpec:
    return TrainSpec(
        **{"learning_rate": 1e-2, "num_train_epochs": 2, "global_batch": 8, "lora": LoraSpec(r=4), **changes}
    )


def train(
    runs: list[TrainRun], execution: Execution = cohort.ALONE
) -> tuple[list[Trained], list[list[dict[str, Any]]]]:
    base = load_base(IDENTITY, {}, "float32")
    lines: list[list[dict[str, Any]]] = [[] for _ in runs]

    class Lines(Observer):
        def line(self, run: int, line: dict[str, Any]) -> None:
            lines[run].append(line)

    return train_cohort(base, Adapters(base.model, runs[0].spec.lora, len(runs)), runs, Lines(), execution), lines


RUNS = [
    TrainRun(spec(), 0, rows(60, 0)),
    TrainRun(spec(learning_rate=3e-3, max_grad_norm=0.1), 1, rows(37, 1)),
    TrainRun(spec(num_train_epochs=1, lr_scheduler_type="cosine", warmup_steps=2), 2, rows(90, 2)),
]


def test_cut_short_is_the_beginning_of_the_whole() -> None:
    (whole,), (line,) = train([RUNS[0]])
    (cut,), (start,) = train([replace(RUNS[0], stop_after_steps=5)])
    assert whole.steps == 16
    assert cut.steps == 5
    assert [one["loss"] for one in start] == [one["loss"] for one in line[:5]]
    assert [one["steps"] for one in start] == [5] * 5


def test_no_steps_at_all_leave_the_start() -> None:
    """The adapter with which a pruned base is evaluated: one that adds nothing."""
    (found,), (lines,) = train([replace(RUNS[0], stop_after_steps=0)])
    assert (found.steps, lines) == (0, [])
    assert bool((found.values == 0).any())


def test_a_start_is_where_training_begins() -> None:
    (first,), _ = train([RUNS[0]])
    still = replace(RUNS[0], start=first.values, spec=spec(learning_rate=1e-12, weight_decay=0.0))
    (second,), _ = train([still])
    torch.testing.assert_close(second.values, first.values, atol=1e-9, rtol=0)


def test_a_cohort_is_its_runs_alone() -> None:
    together, lines = train(RUNS)
    for k, run in enumerate(RUNS):
        (alone,), (line,) = train([run])
        assert together[k].steps == alone.steps == len(line) == len(lines[k])
        assert together[k].tokens == alone.tokens
        losses = [abs(a["loss"] - b["loss"]) for a, b in zip(lines[k], line, strict=True)]
        assert max(losses) < 1e-5
        torch.testing.assert_close(together[k].values, alone.values, atol=1e-5, rtol=0)


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_dropout_masks_come_from_each_runs_own_stream(device: str) -> None:
    """Masks are drawn where the base is from the stream of each run."""
    adapters = Adapters(load_base(IDENTITY, {}, "float32").model.to(device), LoraSpec(r=4, dropout=0.25), 2)
    place = torch.device(device)
    first, second = adapters.draw_dropout([5, 7], [run.stream("dropout:0", place) for run in RUNS[:2]])
    assert first.device.type == second.device.type == device
    assert second.unique().tolist() == pytest.approx([0.0, 1 / 0.75])
    (alone,) = adapters.draw_dropout([7], [RUNS[1].stream("dropout:0", place)])
    assert torch.equal(alone, second)


@pytest.mark.parametrize("micro_batch", [None, 3])
def test_cohort_in_separate_passes_has_the_bits_of_single_runs(
    monkeypatch: pytest.MonkeyPatch, micro_batch: int | None
) -> None:
    """In passes of their own the runs of a cohort have the bits they have alone."""
    execution = Execution(micro_batch=micro_batch)
    monkeypatch.setattr("p2p_dist.training.passes.apart", lambda *_: True)
    together, lines = train(RUNS, execution)
    for k, run in enumerate(RUNS):
        (alone,), (line,) = train([run], execution)
        assert [one["loss"] for one in lines[k]] == [one["loss"] for one in line]
        assert torch.equal(together[k].values, alone.values)


def test_twice_the_same_bits() -> None:
    assert torch.equal(train(RUNS[:1])[0][0].values, train(RUNS[:1])[0][0].values)


def test_evaluation_has_the_memory_of_the_optimizer() -> None:
    """A closed engine keeps neither its states nor sums of gradients beside the adapters."""
    base = load_base(IDENTITY, {}, "float32")
    run = TrainRun(spec(num_train_epochs=1), 0, rows(8, 0))
    trained = Cohort(base, Adapters(base.model, run.spec.lora, 1), [run], Observer(), Execution())
    trained.run()
    assert isinstance(trained.engine, PlainEngine)
    states = weakref.ref(trained.engine.optimizer)
    trained.engine.close()
    assert states() is None
    assert trained.engine.sums is trained.engine.grads is None


def test_it_learns() -> None:
    (found,), (lines,) = train([TrainRun(spec(num_train_epochs=15, learning_rate=3e-2), 0, rows(32, 3))])
    assert found.loss < 0.7 * lines[0]["loss"]


def test_a_run_that_diverges_leaves_the_others_alone() -> None:
    wild = TrainRun(spec(learning_rate=1e30, max_grad_norm=None), 5, rows(60, 0))
    (good, bad), lines = train([RUNS[0], wild])
    (alone,), _ = train([RUNS[0]])
    assert not good.diverged
    assert "at step" in bad.diverged
    assert len(lines[1]) < bad.steps
    torch.testing.assert_close(good.values, alone.values, atol=1e-5, rtol=0)


@given(st.integers(1, 50), st.integers(1, 4), st.integers(1, 12), st.integers(0, 200))
def test_batches_are_a_function_of_the_samples_seen(n: int, epochs: int, batch: int, at: int) -> None:
    schedule = Schedule(3, n, epochs, batch)
    every = list(schedule.batches())
    assert len(every) == schedule.steps
    for epoch in range(epochs):
        per_epoch = -(-n // batch)
        assert sorted(row for rows_ in every[epoch * per_epoch : (epoch + 1) * per_epoch] for row in rows_) == list(
            range(n)
        )
    step = at % len(every)
    seen = sum(len(rows_) for rows_ in every[:step])
    assert list(schedule.batches(seen)) == every[step:]


def test_the_released_code_takes_651_steps() -> None:
    assert Schedule(0, 6920, 3, 32).steps == 651


@pytest.mark.parametrize(
    ("kind", "done", "expected"),
    [
        ("linear", 0, 1.0),
        ("linear", 5, 0.5),
        ("cosine", 5, 0.5),
        ("constant", 9, 1.0),
        ("linear", 9, 0.1),
        ("cosine", 10, 0.0),
    ],
)
def test_learning_rates(kind: str, done: int, expected: float) -> None:
    assert math.isclose(
        learning_rate(spec(learning_rate=1.0, lr_scheduler_type=kind), done, 10), expected, abs_tol=1e-12
    )


def test_warm_up_reaches_the_full_rate() -> None:
    rates = [learning_rate(spec(learning_rate=1.0, warmup_steps=4), done, 12) for done in range(12)]
    assert rates[:5] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert rates[5] < 1.0
