"""Attribution of words: gradient x input by hand, spans of words, and texts that are cut."""

import pytest
import torch

from p2p_dist.config.score_methods import WordAttribution
from p2p_dist.config.study import LoraSpec, TrainSpec
from p2p_dist.data.built import Built, LabelSpace, Suite
from p2p_dist.data.example import Row, text_key
from p2p_dist.modeling.base import load_base
from p2p_dist.modeling.body import body_of
from p2p_dist.modeling.forward import logits_of
from p2p_dist.modeling.lora import Adapters
from p2p_dist.modeling.packing import pack
from p2p_dist.scores.attribution import by_word, scaled, score
from p2p_dist.scores.context import Context
from tests.training.test_cohort import IDENTITY

TEXTS = ("a fine film", "so dull it hurts")


def context(max_length: int = 64) -> Context:
    base = load_base(IDENTITY, {}, "float32")
    adapters = Adapters(base.model, LoraSpec(r=2), 1)
    rows = [Row(text, text, n, "Output: ") for n, text in enumerate(TEXTS)]
    built = Built(rows, [], {"clean": Suite(rows, 0, triggered=False)}, LabelSpace(["0", "1"], 2), [])
    return Context(base, adapters, TrainSpec(max_length=max_length), 0, built)


def test_word_attribution_is_gradient_times_input() -> None:
    given = context()
    lines = {line["id"]: line["words"] for line in score(given, WordAttribution(sets=("clean",)))}
    model, encoded = given.base.model, given.encoder.rows(given.built.train[:1])[0]
    batch = pack([encoded])
    embedded = model.get_input_embeddings()(batch.ids).detach().requires_grad_()
    hidden = body_of(model)(
        inputs_embeds=embedded, position_ids=batch.positions, use_cache=False, packed=batch.packed
    ).last_hidden_state[0]
    tokens = given.encoder.label_tokens(given.built.train[0])
    assert tokens is not None
    logs = torch.log_softmax(logits_of(model, hidden[len(encoded[0].ids) - 1]), -1)[torch.tensor(tokens)]
    (logs.max() - logs.mean()).backward()
    assert embedded.grad is not None
    norms = (embedded.grad * embedded).norm(dim=-1)[0].detach()
    by_hand = scaled([float(norms[first:stop].norm()) for first, stop in ((0, 1), (2, 6), (7, 11))])  # a token per byte
    assert lines[text_key("a fine film")] == pytest.approx(by_hand, abs=1e-4)


def test_word_attribution_cut_text_has_none() -> None:
    lines = score(context(max_length=22), WordAttribution(sets=("clean",)))
    assert {line["id"]: line["words"] is None for line in lines} == {
        text_key("a fine film"): False,
        text_key("so dull it hurts"): True,
    }


def test_by_word_joins_the_tokens_of_a_word() -> None:
    spans = [(-3, 0), (0, 2), (2, 4), (4, 7), (7, 9)]
    assert by_word("abcd ef", spans, [9.0, 3.0, 4.0, 2.0, 9.0]) == [5.0, 2.0]
    assert scaled([2.0, 2.0]) == [0.0, 0.0]
