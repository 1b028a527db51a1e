"""Scores and answers on the fake GPU, by the product's own functions over rows in text."""

from collections.abc import Callable
from random import Random
from typing import TYPE_CHECKING, Any

from bench.workload import rows
from p2p_dist.data.built import Suite
from p2p_dist.data.example import Row
from p2p_dist.evaluation.generation import GREEDY
from p2p_dist.evaluation.label_scoring import score_suite, scoring_of
from p2p_dist.evaluation.response_scoring import Asked, score_responses
from p2p_dist.modeling.base import Base
from p2p_dist.modeling.tokenization import Encoder
from tests.cuda_fake.recorder import Recorder

if TYPE_CHECKING:
    from tests.cuda_fake.cases import Case

WORDS = {"label_logits": ["0", "1"], "whole_string": ["10", "11", "2"]}
"""Label words of each kind of scoring; the byte tokenizer has a token for a letter."""


def _labels(case: "Case", base: Base, recorder: Recorder) -> dict[str, Any]:
    """All rows of a suite, by the scoring that the case is named after."""
    encoder, suite = Encoder(base.tokenizer, WORDS[case.kind], 1024), _suite(case)
    assert scoring_of(encoder, [suite]) == case.kind
    passes: list[int] = []
    score_suite(base, encoder, suite, passes.append)
    assert passes[-1] == len(suite.rows)
    return {"passes": len(passes)}


def _suite(case: "Case") -> Suite:
    """Texts as long as the rows of the workload, less the words around them."""
    random = Random("texts")
    lengths = [len(row.ids) for row in rows(case.rows, 256, 0, case.tokens)]
    texts = ["".join(random.choices("abcdefgh ", k=max(1, length - 8))) for length in lengths]
    return Suite([Row(str(at), text, at % 2, "Label: ") for at, text in enumerate(texts)], 0, triggered=False)


def _responses(case: "Case", base: Base, recorder: Recorder) -> dict[str, Any]:
    """Two responses of twelve and three tokens behind each prompt."""
    asked = [Asked(row.ids, [[*range(12)], [0, 1, 9]]) for row in rows(case.rows, 256, 0, case.tokens)]
    passes: list[int] = []
    score_responses(base, asked, passes.append)
    return {"passes": len(passes)}


def _generate(case: "Case", base: Base, recorder: Recorder) -> dict[str, Any]:
    """Answers of `steps` tokens."""
    GREEDY.write(base, [row.ids for row in rows(case.rows, 256, 0, case.tokens)], case.steps, 255)
    return {}


WORK: dict[str, Callable[["Case", Base, Recorder], dict[str, Any]]] = {
    "label_logits": _labels,
    "whole_string": _labels,
    "responses": _responses,
    "generate": _generate,
}
