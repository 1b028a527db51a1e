"""CleanGen against a plain loop without caches or batches, against greedy decoding, and against hand-made
distributions."""

from collections import Counter
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import GenerationConfig

from p2p_dist.config.study import LoraSpec
from p2p_dist.data.built import Suite
from p2p_dist.errors import UserError
from p2p_dist.evaluation.cleangen import CleanGen, looked_over
from p2p_dist.evaluation.generation import Written, generate_suite, plain_attention
from p2p_dist.modeling.base import Base, load_base
from p2p_dist.modeling.lora import Adapters
from p2p_dist.modeling.tokenization import Encoder
from tests.evaluation.test_decoding import IDENTITY, LLAMA, ROWS, SUITE

NEW = 14


class Pair:
    """A base with two adapters that are much alike, of which one is in place at a time."""

    def __init__(self, identity: Any):
        self.base = load_base(identity, {}, "float32")
        self.adapters = Adapters(self.base.model, LoraSpec(r=4, alpha=8), 1)
        draw = torch.Generator().manual_seed(3)
        own, other = (torch.randn(self.adapters.size, generator=draw) for _ in range(2))
        self.values = [0.3 * own, 0.3 * own + 0.05 * other]
        self.target()

    def target(self) -> None:
        self.adapters.load(0, self.values[0])

    def reference(self) -> None:
        self.adapters.load(0, self.values[1])

    def decoder(self, draft: int, alpha: float) -> CleanGen:
        return CleanGen(self.base, draft, alpha, self.reference, self.target)

    def scores(self, ids: list[int]) -> torch.Tensor:
        return torch.log_softmax(self.base.model(torch.tensor([ids])).logits[0, -1].float(), -1)

    def one_by_one(self, prompt: list[int], draft: int, alpha: float, end: int) -> Written:
        """The method as it is described: nothing is cached, and every token is judged where it stands."""
        done: list[int] = []
        replaced = 0
        while len(done) < NEW and done[-1:] != [end]:
            drafted: list[int] = []
            sure: list[float] = []
            while len(drafted) < draft and drafted[-1:] != [end]:
                self.target()
                scores = self.scores([*prompt, *done, *drafted])
                drafted.append(int(scores.argmax()))
                sure.append(float(scores.max()))
            for at, token in enumerate(drafted):
                self.reference()
                scores = self.scores([*prompt, *done])
                suspicious = sure[at] - float(scores[token]) >= torch.log(torch.tensor(alpha)).item()
                done.append(int(scores.argmax()) if suspicious else token)
                replaced += suspicious and len(done) <= NEW
                if suspicious:
                    break
        return Written(done[:NEW], replaced)


@pytest.mark.parametrize("draft", [1, 4, 20])
@pytest.mark.parametrize("identity", [IDENTITY, LLAMA], ids=["qwen3", "llama"])
@torch.no_grad()
def test_a_batch_is_the_plain_loop_row_by_row(identity: Any, draft: int) -> None:
    pair = Pair(identity)
    prompts = Encoder(pair.base.tokenizer, [], 256).prompts(ROWS)
    with plain_attention(pair.base.model):
        first = pair.decoder(draft, 3.0).write(pair.base, prompts, NEW, end=255)
        end = Counter(token for one in first for token in set(one.ids)).most_common(1)[0][0]
        found = pair.decoder(draft, 3.0).write(pair.base, prompts, NEW, end)
        assert found == [pair.one_by_one(prompt, draft, 3.0, end) for prompt in prompts]
    assert any(one.replaced for one in found)
    assert sum(one.replaced or 0 for one in found) < sum(len(one.ids) for one in found), (
        "some tokens are the target's own"
    )
    assert len({len(one.ids) for one in found}) > 1, "rows end at different places"


def test_with_itself_as_the_reference_nothing_is_replaced() -> None:
    pair = Pair(IDENTITY)
    encoder = Encoder(pair.base.tokenizer, [], 256)
    greedy = generate_suite(pair.base, encoder, SUITE, NEW)
    watched = generate_suite(pair.base, encoder, SUITE, NEW, decoder=CleanGen(pair.base, 4, 20.0))
    assert watched == [replace(row, replaced=0) for row in greedy]


def test_cleangen_leaves_the_target_adapter_in_place() -> None:
    """The target is in place afterwards and the model is as it was."""
    pair = Pair(IDENTITY)
    encoder = Encoder(pair.base.tokenizer, [], 256)
    before, attention = generate_suite(pair.base, encoder, SUITE, NEW), pair.base.model.config._attn_implementation
    watched = generate_suite(pair.base, encoder, SUITE, NEW, decoder=pair.decoder(4, 1.5))
    assert any(row.replaced for row in watched)
    assert generate_suite(pair.base, encoder, SUITE, NEW) == before
    assert pair.base.model.config._attn_implementation == attention


class Chain:
    """A model whose next token depends on the last one alone."""

    _supports_sdpa = True

    def __init__(self, likely: dict[int, dict[int, float]], like: Base):
        self.config, self.generation_config = like.model.config, GenerationConfig()
        self.table = torch.full((256, 256), 1e-6)
        for last, row in likely.items():
            for token, chance in row.items():
                self.table[last, token] = chance

    def set_attn_implementation(self, name: str) -> None:
        pass

    def __call__(self, input_ids: torch.Tensor, logits_to_keep: int, **cached: Any) -> Any:
        return SimpleNamespace(logits=self.table.log()[input_ids][:, -logits_to_keep:])


END = 9
TARGET = {0: {1: 0.9}, 1: {2: 0.9}, 2: {END: 0.9}, 3: {4: 0.9}, 4: {END: 0.9}, 5: {0: 0.9}}


@pytest.mark.parametrize(
    ("reference", "alpha", "expected"),
    [
        (TARGET, 20.0, Written([1, 2, END], 0)),
        # The target is 0.9 / 0.01 = 90 times as sure of 2; the answer is shorter than a draft and is judged all the
        # same.
        ({**TARGET, 1: {2: 0.01, 3: 0.9}}, 20.0, Written([1, 3, 4, END], 1)),
        ({**TARGET, 1: {2: 0.01, 3: 0.9}}, 89.0, Written([1, 3, 4, END], 1)),
        ({**TARGET, 1: {2: 0.01, 3: 0.9}}, 91.0, Written([1, 2, END], 0)),
        # The end token is a token like any other, and the reference may end an answer.
        ({**TARGET, 2: {END: 0.01, 3: 0.9}}, 20.0, Written([1, 2, 3, 4, END], 1)),
        ({**TARGET, 0: {1: 0.01, END: 0.9}}, 20.0, Written([END], 1)),
        # Cut at six tokens, of which four are the reference's.
        ({**TARGET, 0: {1: 0.01, 3: 0.9}, 3: {4: 0.01, 5: 0.9}}, 20.0, Written([3, 5, 0, 3, 5, 0], 4)),
    ],
)
def test_hand_made(reference: dict[int, dict[int, float]], alpha: float, expected: Written) -> None:
    base = load_base(IDENTITY, {}, "float32")
    target, judge = (replace(base, model=Chain(likely, base)) for likely in (TARGET, reference))
    assert CleanGen(judge, 4, alpha).write(target, [[0]], 6, END) == [expected]


def test_nothing_behind_the_end_is_looked_at() -> None:
    assert looked_over([1, 9, 2], [False, False, True], [5, 5, 5], end=9) == ([1, 9], False)
    assert looked_over([1, 9, 2], [False, True, True], [5, 6, 7], end=9) == ([1, 6], True)
    assert looked_over([1, 2, 3], [False, False, False], [5, 6, 7], end=9) == ([1, 2, 3], False)


def test_a_reference_that_reads_other_tokens_is_refused() -> None:
    base = load_base(IDENTITY, {}, "float32")
    other = load_base({**IDENTITY, "shape": {**IDENTITY["shape"], "vocab": 300}}, {}, "float32")
    with pytest.raises(UserError, match="E269"):
        generate_suite(base, Encoder(base.tokenizer, [], 256), SUITE, 4, decoder=CleanGen(other, 4, 20.0))
    assert (
        generate_suite(
            base, Encoder(base.tokenizer, [], 256), Suite([], 0, triggered=False), 4, decoder=CleanGen(other, 4, 20.0)
        )
        == []
    )
