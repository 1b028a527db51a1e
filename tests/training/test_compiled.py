"""Compiled decoder layers train as plain ones do, to the bit where they run twice, or are refused."""

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch._dynamo.utils import counters

from p2p_dist import assets
from p2p_dist.config.methods import Ascent
from p2p_dist.config.study import LoraSpec
from p2p_dist.errors import UserError
from p2p_dist.modeling import compiled_layers, opaque_attention
from p2p_dist.modeling.base import load_base
from p2p_dist.modeling.lora import Adapters
from p2p_dist.training.cohort import Observer, train_cohort
from p2p_dist.training.engine import Execution
from p2p_dist.training.train_run import Trained, TrainRun
from tests.training.test_checkpoint import Keeper
from tests.training.test_cohort import IDENTITY, RUNS, spec

pytestmark = [pytest.mark.torch, pytest.mark.process]

COMPILED = [replace(run, spec=run.spec.model_copy(update={"compile": "auto"})) for run in RUNS[:2]]
"""Two runs of other rates, rows and clipping, with dropout."""


def train(
    runs: Sequence[TrainRun], observer: Observer | None = None, dtype: str = "float32", **execution: Any
) -> tuple[list[Trained], torch.Tensor]:
    """Outcomes, and the numbers of all runs."""
    base = load_base(IDENTITY, {}, dtype)
    adapters = Adapters(base.model, runs[0].spec.lora, len(runs))
    found = train_cohort(base, adapters, runs, observer, Execution(**execution))
    assert not any("forward" in vars(module) for module in base.model.modules())
    return found, torch.stack([run.values for run in found])


@pytest.fixture(
    autouse=True, params=["aot_eager", pytest.param("inductor", marks=pytest.mark.slow("compiles kernels in C++"))]
)
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """What becomes of a graph: kernels, or the operations that it holds, for which nothing is compiled."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=request.param))
    return str(request.param)


def test_cohort_trains_as_plain_layers_with_one_graph(backend: str) -> None:
    """For both layers, all steps and all widths of batches."""
    torch._dynamo.reset()
    counters.clear()
    found, values = train(COMPILED)
    assert counters["stats"]["unique_graphs"] == 1
    expected, plain = train(RUNS[:2])
    torch.testing.assert_close(values, plain, atol=1e-4, rtol=0)
    assert [run.loss for run in found] == pytest.approx([run.loss for run in expected], rel=1e-4)
    if backend == "inductor":
        assert not torch.equal(values, plain)
    assert all(
        re.search(r"threads with \w+, layers compiled by \S+ .*\d+\.\d+\.\d+$", run.topologies[0]) for run in found
    )
    assert all("compiled" not in run.topologies[0] for run in expected)


def test_worker_that_stays_compiles_as_a_fresh_one() -> None:
    """A graph for each size of a cohort and scale of its adapters, and plain layers when they are asked for again."""
    plain = train(RUNS[:1])[1]
    torch._dynamo.reset()
    counters.clear()
    scaled = COMPILED[0].spec.model_copy(update={"lora": LoraSpec(r=4, alpha=3.0)})
    for runs in ([COMPILED[0]], [replace(COMPILED[0], spec=scaled)], COMPILED):
        train(runs)
    assert counters["stats"]["unique_graphs"] == 3
    assert torch.equal(train(RUNS[:1])[1], plain)


def test_compiled_training_gives_its_bits_after_a_resume() -> None:
    """A resume compiles for the sizes of the same invented batch, and with gradient checkpointing the numbers stay."""
    keeper = Keeper()
    _, whole = train(COMPILED, keeper)
    torch._dynamo.reset()  # compiled again, as in another process
    late = [replace(run, resume=keeper.states[k, 5]) for k, run in enumerate(COMPILED)]
    assert torch.equal(train(late)[1], whole)
    assert torch.equal(train(COMPILED, gradient_checkpointing=True)[1], whole)


@pytest.mark.slow("compiles for bfloat16 too")
def test_compiled_layers_in_bfloat16_train_as_plain_ones() -> None:
    """To the rounding of the type; what is fused is rounded once."""
    found, expected = (train(runs, dtype="bfloat16")[0] for runs in (COMPILED, RUNS[:2]))
    assert [run.loss for run in found] == pytest.approx([run.loss for run in expected], rel=0.05)


def refused(runs: Sequence[TrainRun], **execution: Any) -> str:
    with pytest.raises(UserError, match="E320") as error:
        train(runs, **execution)
    return str(error.value)


def test_machine_without_a_compiler_is_refused() -> None:
    from torch._inductor import config

    with config.patch({"cpp.cxx": ("no-such-compiler",)}):
        assert "this machine has no C++ compiler" in refused(COMPILED)


def test_what_compiled_layers_are_not_built_for_is_refused() -> None:
    assert "ZeRO" in refused(COMPILED[:1], zero=1)
    assert "plain loss" in refused([replace(COMPILED[0], objective=Ascent(cap=5.0))])


@pytest.mark.parametrize(
    ("passes", "factor", "what"),
    [("packed_attention", 1.1, "loss"), ("_attend", 1.1, "gradient"), ("_attend", float("nan"), "gradient")],
)
def test_layers_that_compile_to_other_numbers_are_refused(
    passes: str, factor: float, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here attention is a tenth too large in the compiled graph, or in its backward pass alone."""
    plain: Callable[..., Any] = getattr(opaque_attention, passes)

    def wrong(*inputs: Any) -> Any:
        answer = plain(*inputs)
        return (answer[0] * factor, None) if isinstance(answer, tuple) else answer * factor

    monkeypatch.setattr(opaque_attention, passes, wrong)
    assert f"give a {what} that is" in refused(COMPILED)


def test_code_of_another_cpu_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """Machines may share a cache."""
    here = compiled_layers.code_folder()
    assert here == compiled_layers.code_folder()
    monkeypatch.setattr(compiled_layers, "cpu_flags", lambda: {"avx2"})
    assert compiled_layers.code_folder() != here
    assert compiled_layers.code_folder().parent == here.parent == assets.cache_dir() / "compiled"


@pytest.mark.parametrize("other", [{"method": "full"}, {"quantization": "nf4"}], ids=str)
def test_compiled_layers_are_for_adapters_on_a_plain_base(other: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=r"train\.compile is for adapters"):
        spec(compile="auto", lora=LoraSpec(), **other)
