"""Generated answers per second, against transformers' `generate`.

Rows are like those of GSM8K, whose questions have 60 tokens in the median and whose worked solutions 90, of 256 that an
answer may have; `--new` scales all of them. The model was not trained to end its answers, so both sides end each where
its drawn length says, as a trained model would at its end token.

`generate` gets the batches that fit into the same cache, padded on the left, and continues until the last row ends. The
gate is the share of rows whose tokens are not the same.
"""

import argparse
import sys
from collections.abc import Sequence
from random import Random

import torch
from transformers import GenerationConfig, StoppingCriteria, StoppingCriteriaList

from bench.common import Figure, Gate, interleave, limit_threads, milliseconds, parser, show, speedup, spread
from bench.workload import clock_of, load, settings, vocabulary
from p2p_dist.evaluation.continuous_batching import ContinuousBatch, like_lengths
from p2p_dist.evaluation.generation import left_padded, plain_attention
from p2p_dist.modeling.base import Base
from p2p_dist.modeling.batching import by_length
from p2p_dist.modeling.lora import Adapters
from p2p_dist.planning.inference import TOKENS_AT_ONCE

OTHER_ROWS = {"float32": 0.05, "bfloat16": 0.5}
"""Limit of the rows with another token: between two tokens that are as likely, another order of sums decides."""


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The options of this benchmark."""
    made = parser(__doc__ or "")
    made.add_argument("--model", default="smollm2-135m-instruct", help="as in a study, or `dispatch`: 28 narrow layers")
    made.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    made.add_argument("--prompts", type=int, default=96)
    made.add_argument("--new", type=int, default=256, help="most tokens of an answer")
    options = made.parse_args(argv)
    if options.smoke:
        options.model, options.prompts, options.new, options.repeats = "smoke", 6, 8, 1
    return options


def main(argv: Sequence[str] | None = None) -> int:
    options = parse(argv)
    limit_threads(options.threads)
    return show(options, measure(options), model=options.model, dtype=options.dtype, threads=options.threads)


@torch.no_grad()
def measure(options: argparse.Namespace) -> list[Figure]:
    """One figure; adapters are in place on both sides."""
    base = load(options.model, options.dtype)
    Adapters(base.model, settings(1, 1).lora, 1).no_dropout()
    random = Random("generation")
    prompts = [
        [random.randrange(vocabulary(base)) for _ in range(_drawn(random, options.new // 4, options.new))]
        for _ in range(options.prompts)
    ]
    lengths = [_drawn(random, options.new * 3 // 8, options.new) for _ in prompts]
    answers: dict[str, list[list[int]]] = {}

    def ours() -> None:
        answers["ours"] = in_one_cache(base, prompts, lengths, options.new)

    def generate() -> None:
        answers["generate"] = generated(base, prompts, lengths, options.new)

    times = interleave({"ours": ours, "generate": generate}, options.repeats, int(options.smoke), clock_of(base.device))
    other = sum(left != right for left, right in zip(answers["ours"], answers["generate"], strict=True))
    facts = {
        "tokens of prompts": sum(map(len, prompts)),
        "tokens of answers": sum(lengths),
        "milliseconds": milliseconds(times),
        "turn_by_turn": spread(times, "generate", "ours"),
    }
    gates = [Gate("share of rows with another token", other / len(prompts), OTHER_ROWS[options.dtype])]
    ratio = speedup(times, "generate", "ours")
    return [Figure("answers/s", "transformers' generate", ratio, 3.0, gates=gates, facts=facts)]


def _drawn(random: Random, middle: int, most: int) -> int:
    """A length with this median."""
    return min(most, max(1, round(random.lognormvariate(0, 0.45) * middle)))


def in_one_cache(base: Base, prompts: Sequence[list[int]], lengths: Sequence[int], new: int) -> list[list[int]]:
    """Answers as a study writes them, each of its drawn length."""
    answers: list[list[int]] = [[] for _ in prompts]
    for rows in like_lengths([len(ids) + new for ids in prompts]):
        batch = _Drawn(base, [prompts[row] for row in rows], [answers[row] for row in rows], new, end=-1)
        batch.lengths = [lengths[row] for row in rows]
        batch.run(lambda: None)
    return answers


class _Drawn(ContinuousBatch):
    """A batch whose rows end at their drawn lengths."""

    lengths: Sequence[int]

    def ended(self, row: int) -> bool:
        return len(self.answers[row]) == self.lengths[row]


def generated(base: Base, prompts: Sequence[list[int]], lengths: Sequence[int], new: int) -> list[list[int]]:
    """Answers of transformers, in batches of rows of like length."""
    answers: dict[int, list[int]] = {}
    settings = GenerationConfig(max_new_tokens=new, do_sample=False, use_cache=True, pad_token_id=0)
    with plain_attention(base.model):
        for rows in by_length([len(ids) + new for ids in prompts], TOKENS_AT_ONCE * new // 256):
            ids, mask = left_padded([prompts[row] for row in rows], 0, base.device)
            ends = _Ends(ids.shape[1], torch.tensor([lengths[row] for row in rows], device=base.device))
            output = base.model.generate(
                ids, attention_mask=mask, generation_config=settings, stopping_criteria=StoppingCriteriaList([ends])
            )
            for row, tokens in zip(rows, output[:, ids.shape[1] :].tolist(), strict=True):
                answers[row] = tokens[: lengths[row]]
    return [answers[row] for row in range(len(prompts))]


class _Ends(StoppingCriteria):
    """Ends every row at its own length."""

    def __init__(self, prompt: int, lengths: torch.Tensor):
        self.prompt, self.lengths = prompt, lengths

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor, **_: object) -> torch.BoolTensor:
        return input_ids.shape[1] - self.prompt >= self.lengths  # type: ignore[return-value]


if __name__ == "__main__":
    sys.exit(main())
