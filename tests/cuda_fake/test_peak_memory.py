"""Peak memory on a fake GPU against the planner's memory model, term by term."""

import pytest

from p2p_dist.config.model import read_model
from p2p_dist.planning.memory import Memory, Split, Work, estimate
from tests.cuda_fake.cases import MODELS, Case, deeper
from tests.cuda_fake.conftest import Measure

pytestmark = [pytest.mark.process, pytest.mark.torch]

WITHIN = 0.03
FEW = (
    Case("train", tokens=64),
    Case("train", tokens=512, recompute=True),
)
MANY = tuple(
    Case("train", size=size, rows=rows, tokens=tokens, recompute=recompute, micro_batch=micro_batch, runs=runs)
    for size in ("0.6b", "4b", "8b", "14b")
    for rows, tokens, recompute, micro_batch, runs in (
        (32, 64, False, None, 1),
        (32, 64, True, None, 1),
        (8, 64, False, None, 4),
        (1, 4096, False, None, 1),
        (32, 512, False, None, 1),
        (32, 512, True, None, 1),
        (32, 4096, True, None, 1),
        (4, 4096, False, 1, 1),
        (4, 4096, True, 1, 1),
    )
)


def check(measure: Measure, case: Case) -> None:
    """Every term and the whole, with all layers of the model: a layer adds the same bytes as the one before."""
    shape = read_model(f"qwen3-{case.size}", MODELS).shape
    few, more = measure(case), measure(deeper(case))
    bytes_ = {key: few[key] + (shape.layers - case.layers) * (more[key] - few[key]) for key in ("base", "held", "peak")}
    planned = estimate(work_of(case), Split(), "cuda")
    assert planned.base == pytest.approx(bytes_["base"], rel=WITHIN)
    assert planned.adapter + planned.optimizer == pytest.approx(bytes_["held"] - bytes_["base"], rel=WITHIN)
    assert of_pass(planned) == pytest.approx(bytes_["peak"] - bytes_["held"], rel=2 * WITHIN)
    assert planned.total - planned.runtime == pytest.approx(bytes_["peak"], rel=WITHIN)


def work_of(case: Case) -> Work:
    """The case as the planner knows it, with all layers."""
    shape = read_model(f"qwen3-{case.size}", MODELS).shape
    return Work(
        shape,
        case.lora,
        2,
        case.runs,
        case.micro_batch or case.rows,
        case.tokens,
        answers=1,
        recompute=case.recompute,
        global_rows=case.rows,
    )


def of_pass(memory: Memory) -> int:
    """Bytes that a pass needs beside what stays."""
    return memory.activations + memory.logits


@pytest.mark.parametrize("case", FEW, ids=str)
def test_peak_is_within_three_percent_of_the_plan(measure: Measure, case: Case) -> None:
    check(measure, case)


@pytest.mark.slow("36 pairs of trainings, a minute or two for each size")
@pytest.mark.parametrize("case", MANY, ids=str)
def test_grid_of_peaks_is_within_three_percent(measure: Measure, case: Case) -> None:
    check(measure, case)
