"""Runs share a pass where issuing operations takes longer than computing them."""

import pytest

from p2p_dist.config.model import read_model
from p2p_dist.config.study import LoraSpec
from p2p_dist.planning.memory import Work, activations
from p2p_dist.planning.passes import Device, apart
from p2p_dist.scheduling.study import configs_dir


@pytest.mark.parametrize(
    ("model", "device", "alone"),
    [
        ("tiny", "cpu", False),
        ("smollm2-135m-instruct", "cpu", True),
        ("qwen3-0.6b", "cuda", False),
        ("qwen3-1.7b", "cuda", False),
        ("qwen3-14b", "cuda", True),
    ],
)
def test_the_study_of_the_readme(model: str, device: Device, alone: bool) -> None:
    """32 rows of 30 tokens."""
    shape = read_model(model, configs_dir() / "models").shape
    assert apart(shape.linear_parameters, shape.layers, 32 * 30, device) == alone


def test_apart_a_cohort_keeps_the_activations_of_one_run() -> None:
    shape = read_model("qwen3-14b", configs_dir() / "models").shape
    one, four = (activations(Work(shape, LoraSpec(), 2, cohort, 32, 128), "cuda") for cohort in (1, 4))
    assert one == four
