"""The memory model against what a training really allocates, and its terms against what is known."""

from dataclasses import replace

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from bench.memory_model import SHAPES, allocated_peak, measure
from p2p_dist.config.model import read_model
from p2p_dist.config.study import LoraSpec
from p2p_dist.modeling.base import load_base
from p2p_dist.planning.memory import Split, Work, activations, adapter_parameters, estimate
from p2p_dist.scheduling.study import configs_dir


@pytest.mark.parametrize(
    ("name", "width", "cohort", "recompute"),
    [("qwen3", 4, 1, False), ("qwen3", 2, 2, False), ("llama", 2, 1, False), ("qwen3", 2, 1, True)],
)
def test_within_ten_percent_of_measured_peaks(name: str, width: int, cohort: int, recompute: bool) -> None:
    work = Work(SHAPES[name], LoraSpec(), width, cohort, 8, 24, recompute=recompute)
    base = load_base({"source": "random", "shape": work.shape.model_dump()}, {}, {4: "float32", 2: "bfloat16"}[width])
    if base.device.type != "cpu":
        pytest.skip("measures the CPU allocator; bench/memory_model.py measures the GPU's")
    said = estimate(work, Split(), "cpu")
    assert said.total - said.runtime == pytest.approx(measure(base, work), rel=0.10)


@pytest.mark.parametrize("width", [4, 2])
def test_all_weights_within_ten_percent_of_measured(width: int) -> None:
    """Gradients, masters and moments of every weight, in fp32 and bfloat16."""
    work = Work(SHAPES["qwen3"], LoraSpec(), width, 1, 8, 24, full=True)
    base = load_base({"source": "random", "shape": work.shape.model_dump()}, {}, {4: "float32", 2: "bfloat16"}[width])
    if base.device.type != "cpu":
        pytest.skip("measures the CPU allocator; bench/memory_model.py measures the GPU's")
    estimated = estimate(work, Split(), "cpu")
    assert estimated.total - estimated.runtime == pytest.approx(measure(base, work), rel=0.10)


def test_release_of_earlier_memory_does_not_lower_a_peak() -> None:
    """The profiler knows an address from a former block and reports its release at the size it had there."""
    options = {"activities": [ProfilerActivity.CPU], "profile_memory": True}
    with profile(**options):
        first = torch.empty(2**24)
    address = first.data_ptr()
    del first
    second = torch.empty(2**24)
    if second.data_ptr() != address:
        pytest.skip("the allocator gave another address")
    with profile(**options) as recorded:
        del second
        third = torch.empty(1000)
    assert allocated_peak(recorded) == third.nbytes


def test_zero_shards_all_weights_as_its_stage_says() -> None:
    work = Work(read_model("qwen3-8b", configs_dir() / "models").shape, LoraSpec(), 2, 1, 8, 128, full=True)
    unsharded, one, two, three = (estimate(work, Split(8, zero), "cuda") for zero in (0, 1, 2, 3))
    assert unsharded.adapter == 0
    assert unsharded.optimizer == 12 * work.shape.parameters == 8 * one.optimizer == 8 * three.optimizer
    assert one.base == two.base == unsharded.base == 8 * three.base
    assert one.gradients > two.gradients == three.gradients > 0
    assert one.gather == two.gather == 0 < three.gather
    assert estimate(work, Split(8, 2, "optimizer"), "cuda").optimizer == 0


@pytest.mark.parametrize(
    ("name", "millions"),
    [("qwen3-0.6b", 10.1), ("qwen3-1.7b", 17.4), ("qwen3-4b", 33.0), ("qwen3-8b", 43.7), ("qwen3-14b", 64.2)],
)
def test_adapter_sizes(name: str, millions: float) -> None:
    assert adapter_parameters(read_model(name, configs_dir() / "models").shape, LoraSpec(r=16)) / 1e6 == pytest.approx(
        millions, abs=0.06
    )


def test_zero_divides_what_it_shards() -> None:
    work = Work(read_model("qwen3-8b", configs_dir() / "models").shape, LoraSpec(), 2, 1, 8, 128)
    whole, one, two, three = (estimate(work, Split(4, zero), "cuda") for zero in (0, 1, 2, 3))
    assert one.optimizer * 4 == whole.optimizer == estimate(work, Split(), "cuda").optimizer
    assert whole.adapter == one.adapter > two.adapter
    assert three.base * 4 == whole.base
    assert three.gather > 0 == two.gather
    off = estimate(work, Split(4, 3, "all"), "cuda")
    assert (off.base, off.optimizer) == (0, 0)
    assert off.total < three.total < whole.total


@pytest.mark.parametrize(("name", "tensors"), [("llama-3.1-8b", 1), ("gemma-3-1b-it", 0), ("gpt-oss-20b", 0)])
def test_layers_that_are_replaced_keep_less_than_plain_ones(name: str, tensors: int) -> None:
    """SwiGLU one tensor of tokens x intermediate, norms half of their inputs; ZeRO-3 has the plain layers, and experts
    and other activations are not replaced. A block that is recomputed has silu in its backward pass."""
    shape = read_model(name, configs_dir() / "models").shape
    work = Work(shape, LoraSpec(), 2, 1, 8, 128)
    fused, plain, again, plain_again = (
        activations(each, "cuda", zero) for each in (work, replace(work, recompute=True)) for zero in (2, 3)
    )
    norms = 0 if shape.architecture == "gemma3" else 2 * 2 * shape.hidden
    assert plain - fused == 8 * 128 * shape.layers * (2 * tensors * shape.intermediate + norms)
    assert plain_again - again == 8 * 128 * norms


def test_four_bits_take_a_quarter() -> None:
    shape = read_model("qwen3-8b", configs_dir() / "models").shape
    plain, four = (
        estimate(Work(shape, LoraSpec(), 2, 1, 8, 128, quantized=quantized), Split(), "cuda")
        for quantized in (False, True)
    )
    rest = (shape.parameters - shape.linear_parameters) * 2
    assert (four.base - rest) / (plain.base - rest) == pytest.approx(0.2578, abs=1e-3)
    assert four.activations == plain.activations


def test_terms_add_up() -> None:
    found = estimate(
        Work(SHAPES["llama"], LoraSpec(target_modules=("q_proj",), dropout=0.0), 4, 2, 4, 16), Split(), "cpu"
    )
    parts = found.in_gib()
    assert parts.pop("total") == pytest.approx(sum(parts.values()), abs=0.05)
