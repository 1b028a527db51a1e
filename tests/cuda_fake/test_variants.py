"""Kinds of training beside the plain one on a fake GPU: tensors lie there, and the host waits once a step.

Weights in four bits have no case: bitsandbytes' `Params4bit` is a class of tensor that no fake tensor can become.
"""

import pytest

from tests.cuda_fake.cases import Case
from tests.cuda_fake.process import Measure

pytestmark = [pytest.mark.process, pytest.mark.torch]

VARIANTS = {
    "full": Case("train", variant="full"),
    "ascent": Case("train", variant="ascent"),
    "amplification": Case("train", variant="amplification"),
    "consistency": Case("train", variant="consistency", layers=3),
    "aligned": Case("train", variant="aligned"),
    "aligned cohort": Case("train", variant="aligned", runs=2),
    "upper layers": Case("train", layers=3, adapted=1, steps=3),
    "images": Case("train", variant="images", size="qwen2.5-vl-3b-instruct", rows=8),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_step_of_a_variant_stays_on_the_gpu(measure: Measure, name: str) -> None:
    """As for plain training: no float tensor on the host, and one wait, which reads loss and norm."""
    measured = measure(VARIANTS[name])
    assert measured["devices"] == ["cuda:0"]
    assert measured["host_floats"] == {}
    assert measured["synchronisations"] == {"tolist": 1}


def test_states_below_the_adapters_are_kept(measure: Measure) -> None:
    assert measure(VARIANTS["upper layers"])["kept_states"]


def test_teacher_is_read_once_and_its_states_are_sent(measure: Measure) -> None:
    """A teacher's states lie in the host's memory: those of a batch are joined there and sent without waiting. The
    teacher itself is loaded once, and read once for each pass."""
    measured = measure(Case("train", variant="distillation"))
    assert measured["before"] == {"to the GPU": 1, "to the host": 1}
    assert measured["devices"] == ["cuda:0"]
    assert measured["host_floats"] == {"cat": 1}
    assert measured["synchronisations"] == {"tolist": 1}
