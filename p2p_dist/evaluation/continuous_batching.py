"""Greedy answers with continuous batching (Orca, OSDI 2022): a row that ends leaves the batch, and waiting rows enter.

Prompts are read as packed rows, answers are written one token of every row at a time, and both share one cache that
does not grow.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch

from p2p_dist.config.model import shape_of_config
from p2p_dist.config.study import LoraSpec
from p2p_dist.modeling.attention import rows_packed
from p2p_dist.modeling.base import Base
from p2p_dist.modeling.batching import gpu_bytes, tokens_per_pass
from p2p_dist.modeling.body import body_of
from p2p_dist.modeling.forward import answer_states, logits_of
from p2p_dist.modeling.image_tokens import body_inputs, shift_behind
from p2p_dist.modeling.key_value_cache import KeyValueCache, NextTokens
from p2p_dist.modeling.lengths import before_forward
from p2p_dist.modeling.packing import grouping, pack
from p2p_dist.modeling.tokenization import Encoded
from p2p_dist.modeling.transfer import sent
from p2p_dist.planning.inference import ROWS_AT_ONCE, TOKENS_AT_ONCE, cache_tokens, usual_cache_tokens
from p2p_dist.planning.memory import Work

REFILL = 8
"""Waiting rows enter when an eighth of the slots is free: reading one prompt costs a short model what a token of all
rows costs."""


@torch.no_grad()
def answers_of(
    base: Base, prompts: Sequence[list[int]], new: int, end: int, on_row: Callable[[], None]
) -> list[list[int]]:
    """Answers of at most `new` tokens, the end token included. `on_row` is called after every row."""
    answers: list[list[int]] = [[] for _ in prompts]
    for indices in like_lengths([len(ids) + new for ids in prompts]):
        ContinuousBatch(
            base, [prompts[index] for index in indices], [answers[index] for index in indices], new, end
        ).run(on_row)
    return answers


def tokens_at_once(base: Base) -> int:
    """Tokens that the cache of a model has room for. On a GPU its memory may leave room for fewer than usual, as a plan
    counts them (`planning.inference`); models of unknown shape, those without attention and CPUs have the usual
    number."""
    text = base.model.config.get_text_config()
    if getattr(text, "num_attention_heads", None) is None:
        return TOKENS_AT_ONCE
    heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    width = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    usual = usual_cache_tokens(2 * text.num_hidden_layers * heads * width * base.dtype.itemsize)
    if base.device.type != "cuda" or (shape := shape_of_config(base.model.config.to_dict())) is None:
        return usual
    quantized = any(weight.dtype == torch.uint8 for weight in base.model.parameters())  # as bitsandbytes packs 4 bits
    work = Work(shape, LoraSpec(), base.dtype.itemsize, 1, 1, 1, quantized=quantized)
    return cache_tokens(work, gpu_bytes(base.device))


def like_lengths(rooms: Sequence[int]) -> Iterator[list[int]]:
    """Rows that share a cache, the longest first: none takes less than half of the longest one's room."""
    indices = sorted(range(len(rooms)), key=lambda index: (-rooms[index], index))
    while indices:
        count = sum(2 * rooms[index] >= rooms[indices[0]] for index in indices)
        yield indices[:count]
        indices = indices[count:]


@dataclass
class ContinuousBatch:
    """Rows that share a cache. `rows` are those in its first slots, in order of the slots; `answers` are filled here,
    with at most `new` tokens each."""

    base: Base
    prompts: Sequence[list[int]]
    answers: Sequence[list[int]]
    new: int
    end: int

    def __post_init__(self) -> None:
        length = max(map(len, self.prompts)) + self.new
        most = ROWS_AT_ONCE["cuda" if self.base.device.type == "cuda" else "cpu"]
        rows = min(len(self.prompts), most, tokens_at_once(self.base) // length)
        self.cache = KeyValueCache(max(1, rows), length)
        self.shifts = [shift_behind(self.base.model, ids) for ids in self.prompts]
        self.waiting = list(range(len(self.prompts)))
        self.rows: list[int] = []

    def run(self, on_row: Callable[[], None]) -> None:
        """Answer all rows; `on_row` is called after every row."""
        while self.waiting or self.rows:
            free = self.cache.slots - len(self.rows)
            enters = self.waiting and (not self.rows or free >= max(1, self.cache.slots // REFILL))
            written = self._enter(free) if enters else self._continue()
            ended = [slot for slot in written if self.ended(self.rows[slot])]
            self._leave(ended)
            for _ in ended:
                on_row()

    def ended(self, row: int) -> bool:
        """True for an answer that has its last token."""
        return self.answers[row][-1] == self.end or len(self.answers[row]) == self.new

    def _enter(self, free: int) -> range:
        """Read the prompts of the next rows, and write their first tokens. Returns their slots."""
        count, tokens = 0, 0
        for row in self.waiting[:free]:
            tokens += len(self.prompts[row])
            if count and tokens > tokens_per_pass(self.base.device):
                break
            count += 1
        entering, self.waiting = self.waiting[:count], self.waiting[count:]
        slots = range(len(self.rows), len(self.rows) + count)
        self.rows += entering
        self._write(slots, self._read([self.prompts[row] for row in entering], slots))
        return slots

    def _read(self, prompts: Sequence[list[int]], slots: range) -> torch.Tensor:
        """Last hidden states of prompts that enter the cache, [n, d]."""
        model, device = self.base.model, self.base.device
        batch = pack([[Encoded("", ids, [0]) for ids in prompts]], grouping(device)).to(device)
        self.cache.clear(_on(list(slots), device))
        places = [
            slot * self.cache.length + at for slot, ids in zip(slots, prompts, strict=True) for at in range(len(ids))
        ]
        self.cache.begin(_on(places, device))
        packed = replace(batch.packed, cache=self.cache)
        return answer_states(model, batch.ids, batch.positions, packed, batch.answers)

    def _continue(self) -> range:
        """Write one more token of every row in the cache. Returns the slots."""
        model = self.base.model
        ids = [self.answers[row][-1] for row in self.rows]
        positions = [len(self.prompts[row]) + len(self.answers[row]) - 1 for row in self.rows]
        places = [slot * self.cache.length + at for slot, at in enumerate(positions)]
        rotary = [position + self.shifts[row] for position, row in zip(positions, self.rows, strict=True)]
        inputs = _on([ids, positions, places, rotary], self.base.device)
        self.cache.begin(inputs[2])
        tokens = NextTokens(self.cache, inputs[1], max(positions))
        before_forward(model)
        with rows_packed(tokens):
            arguments = body_inputs(model, inputs[0][None], inputs[3][None])
            output = body_of(model)(**arguments, use_cache=False, packed=tokens)
        slots = range(len(self.rows))
        self._write(slots, output.last_hidden_state[0])
        return slots

    def _write(self, slots: range, states: torch.Tensor) -> None:
        """Add the likeliest token behind last hidden states [n, d] to the answers of n slots."""
        for slot, token in zip(slots, logits_of(self.base.model, states).argmax(-1).tolist(), strict=True):
            self.answers[self.rows[slot]].append(token)

    def _leave(self, slots: Sequence[int]) -> None:
        """Take rows out. Rows of the last slots move to those that become free."""
        staying = [slot for slot in range(len(self.rows)) if slot not in set(slots)]
        holes = [slot for slot in slots if slot < len(staying)]
        moving = staying[len(staying) - len(holes) :]
        if holes:
            self.cache.move(_on(holes, self.base.device), _on(moving, self.base.device))
        for slot, source in zip(holes, moving, strict=True):
            self.rows[slot] = self.rows[source]
        del self.rows[len(staying) :]


def _on(numbers: Sequence[object], device: torch.device) -> torch.Tensor:
    return sent(torch.tensor(numbers), device)
