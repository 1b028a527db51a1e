"""Scores and answers on a fake GPU: the host waits once for each pass, and logits never take much memory."""

import pytest

from p2p_dist.config.model import read_model
from p2p_dist.config.study import LoraSpec
from p2p_dist.planning.inference import inference_memory
from p2p_dist.planning.memory import Split, Work
from p2p_dist.scheduling.study import configs_dir
from tests.cuda_fake.cases import Case
from tests.cuda_fake.process import Measure

pytestmark = [pytest.mark.process, pytest.mark.torch]

SCORES = {
    "labels": (Case("label_logits", rows=2000), 1.1),
    "words": (Case("whole_string", rows=80, tokens=500), 1.5),
    "responses": (Case("responses", rows=80, tokens=500), 1.5),
}
"""Rows of two passes of 32,768 tokens, and the GiB that one of two layers of Qwen3-0.6B may take beside what is held.
The logits of all rows of the first would take 0.8 GiB in each of three tensors."""


@pytest.mark.parametrize("name", SCORES)
def test_pass_of_scores_waits_once_and_holds_few_logits(measure: Measure, name: str) -> None:
    """One read for each pass and no other wait, no float tensor on the host, and a bounded peak."""
    case, most = SCORES[name]
    measured = measure(case)
    assert measured["passes"] == 2
    assert measured["host_floats"] == {}
    assert measured["synchronisations"] == {"tolist": measured["passes"]}
    assert (measured["peak"] - measured["static"]) / 2**30 < most


@pytest.mark.parametrize("size", ["0.6b", "14b"])
def test_peak_of_text_answers_is_that_of_the_plan(measure: Measure, size: str) -> None:
    """Two layers, 300 rows of up to 403 tokens, of which the cache holds 256."""
    measured = measure(Case("generate", size=size, rows=300, tokens=400, steps=3))
    shape = read_model(f"qwen3-{size}", configs_dir() / "models").shape.model_copy(update={"layers": 2})
    work = Work(shape, LoraSpec(), 2, 1, 1, 400)
    planned = inference_memory(work, Split(), "cuda", 141e9, 403)
    found = measured["peak"] - measured["static"]
    assert 0.9 * (planned.activations + planned.cache) < found <= planned.activations + planned.cache


def test_generation_waits_once_for_each_token(measure: Measure) -> None:
    """The host reads the tokens that end answers, and nothing else."""
    few, more = measure(Case("generate", tokens=16, steps=3)), measure(Case("generate", tokens=16, steps=5))
    assert few["host_floats"] == more["host_floats"] == {}
    assert sum(few["synchronisations"].values()) == 3, few["synchronisations"]
    assert sum(more["synchronisations"].values()) == 5, more["synchronisations"]
