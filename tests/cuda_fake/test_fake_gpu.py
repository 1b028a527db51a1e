"""All work on a fake GPU: every tensor lies there, the host seldom waits, and a layer costs few operations."""

import pytest

from tests.cuda_fake.cases import Case, deeper
from tests.cuda_fake.process import Measure

pytestmark = [pytest.mark.process, pytest.mark.torch]

TRAININGS = {
    "plain": Case("train"),
    "cohort": Case("train", runs=2),
    "micro-batches": Case("train", micro_batch=16),
    "checkpointing": Case("train", recompute=True),
    "generated": Case("train", generator=8),
    "14b": Case("train", size="14b"),
}
OPERATIONS = {"plain": 87, "cohort": 87, "checkpointing": 123}
"""Most operations that one layer of Qwen3-0.6B adds to a step on rows like those of SST-2."""
REFUSED = {
    *("cumsum", "histc", "bincount", "put_", "put", "kthvalue", "median", "nanmedian", "resize_", "ctc_loss"),
    *(
        "nll_loss2d",
        "nll_loss2d_forward",
        "grid_sampler_2d_backward",
        "_embedding_bag",
        "index_reduce",
        "scatter_reduce",
    ),
    *("upsample_bilinear2d_backward", "upsample_bicubic2d_backward", "_adaptive_avg_pool2d_backward"),
}
"""Operations without a deterministic kernel on CUDA, those of them that a language model could ask for."""
REPEATED = 60
"""Most operations of a step whose pass is a graph, whatever the depth of the model."""
DRAWING = {"rand", "ge_", "div_", "_to_copy", "copy_"}
"""Operations that draw dropout for the tokens of a global batch and copy it to those of a pass."""
WAITS = 1
"""Most times that the host waits for the GPU in a step."""


@pytest.mark.parametrize("name", TRAININGS)
def test_training_step_stays_on_the_gpu(measure: Measure, name: str) -> None:
    """Optimiser, adapters and gradients are on the GPU, no float tensor is made on the host, and it seldom waits."""
    measured = measure(TRAININGS[name])
    assert measured["devices"] == ["cuda:0"]
    assert measured["host_floats"] == {}
    assert sum(measured["synchronisations"].values()) <= WAITS, measured["synchronisations"]


@pytest.mark.parametrize("name", OPERATIONS)
def test_layer_of_a_training_costs_few_operations(measure: Measure, name: str) -> None:
    case = TRAININGS[name]
    assert per_layer(measure, case) <= OPERATIONS[name], measure(case)["most"]


def test_step_of_a_small_model_stays_below_2600_operations(measure: Measure) -> None:
    """All 28 layers of Qwen3-0.6B, and the update."""
    case = TRAININGS["plain"]
    assert measure(case)["operations"] + (28 - case.layers) * per_layer(measure, case) <= 2600


GRAPHS = {
    "one run": Case("train", tokens=64, graphs=True, steps=5),
    "cohort": Case("train", tokens=64, graphs=True, steps=5, runs=2),
    "checkpointing": Case("train", tokens=64, graphs=True, steps=5, recompute=True),
}


@pytest.mark.parametrize("name", GRAPHS)
def test_repeated_pass_launches_no_operation_of_a_layer(measure: Measure, name: str) -> None:
    """The last two of five batches of one form are graphs, whose passes ask nothing of the host."""
    few, more = measure(GRAPHS[name]), measure(deeper(GRAPHS[name]))
    assert few["repeated"] == more["repeated"] == 2
    assert few["operations"] == more["operations"] <= REPEATED, few["most"]
    assert sum(few["synchronisations"].values()) <= WAITS


@pytest.mark.parametrize(
    "case", [*TRAININGS.values(), Case("label_logits"), Case("generate", tokens=16, steps=3)], ids=str
)
def test_no_operation_is_refused_in_deterministic_mode(measure: Measure, case: Case) -> None:
    """A GPU refuses these (`torch.use_deterministic_algorithms`), and a study would end with E319."""
    assert not REFUSED & set(measure(case)["names"])


def per_layer(measure: Measure, case: Case) -> int:
    """Operations that one layer adds."""
    return int(measure(deeper(case))["operations"] - measure(case)["operations"])


def test_few_steps_bring_shapes_of_products_or_attention(measure: Measure) -> None:
    """Over rows like those of SST-2 most steps ask for shapes of products and attention that were there before: packed
    widths are multiples of 32. Such steps have new shapes where dropout is drawn for the real tokens, and nowhere else:
    those operations go element by element, and are compiled for no shape."""
    new = [set(names) for names in measure(Case("train", layers=1, steps=30))["new_shapes"]]
    compiled = [bool(names - DRAWING) for names in new]
    assert sum(compiled) <= 9
    assert sum(compiled[10:]) <= 3


def test_equal_rows_bring_no_new_shapes(measure: Measure) -> None:
    """A second step over rows of the same lengths asks for nothing that the first did not."""
    assert measure(Case("train", tokens=64))["new_shapes"][1:] == [[]]
