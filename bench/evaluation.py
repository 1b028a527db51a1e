"""Evaluated prompts per second, against `generate` and against the log-likelihood of every label.

The rivals are how such models are commonly evaluated: PEFT's model, batches of eight in order of arrival. `generate`
writes two tokens with a cache; the other reads each prompt once per label and takes the logits of all positions. The
gate is the share of rows on which the two sides do not agree; for twenty labels, between which bfloat16 often cannot
choose, it is by how much the other side's answer is worse in our scores.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from random import Random

import torch

from bench.common import Figure, Gate, LeftOut, interleave, limit_threads, milliseconds, parser, show, speedup, spread
from bench.peers import peft_model
from bench.workload import another, clock_of, load, settings, start_values
from p2p_dist.data.built import Suite
from p2p_dist.data.example import Row
from p2p_dist.evaluation.label_scoring import score_suite
from p2p_dist.modeling.base import Base
from p2p_dist.modeling.lora import Adapters
from p2p_dist.modeling.tokenization import Encoder
from p2p_dist.results.predictions import Prediction
from p2p_dist.training.train_run import TrainRun

AT_ONCE = 8
WORSE = {"float32": 1e-3, "bfloat16": 0.5}
"""Limit of the loss of score. A logit of 16 to 32 is a multiple of 1/8 in bfloat16, and a word is two or
three of them."""
WORDS = (
    "the",
    "a",
    "film",
    "story",
    "plot",
    "music",
    "scene",
    "actor",
    "and",
    "of",
    "with",
    "by",
    "is",
    "was",
    "bad",
    "good",
    "slow",
    "warm",
    "dull",
    "fresh",
    "very",
    "quite",
    "never",
    "always",
)


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The options of this benchmark."""
    made = parser(__doc__ or "")
    made.add_argument("--model", default="smollm2-135m-instruct", help="as in a study, or `dispatch`: 28 narrow layers")
    made.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    made.add_argument("--prompts", type=int, default=96)
    options = made.parse_args(argv)
    if options.smoke:
        options.model, options.prompts, options.repeats = "smoke", 12, 2
    return options


def main(argv: Sequence[str] | None = None) -> int:
    options = parse(argv)
    limit_threads(options.threads)
    return show(options, measure(options), model=options.model, dtype=options.dtype, threads=options.threads)


@torch.no_grad()
def measure(options: argparse.Namespace) -> list[Figure | LeftOut]:
    """Two figures with two labels, and one with twenty that one token does not tell apart."""
    base = load(options.model, options.dtype)
    run = TrainRun(settings(1, 1), 0, [])
    full_suite = Suite(prompts(options.prompts), 0, triggered=False)
    stacked, peft = with_adapter(base, run), peft_model(base, run).eval()
    two, twenty = ["0", "1"], [str(label) for label in range(20)]
    answers: dict[str, list[int | None]] = {}
    scored: list[Prediction] = []
    figures: list[Figure | LeftOut] = []
    for labels, rivals in (
        (two, {"generate": 5.0, "log-likelihood of each label": 2.2}),
        (twenty, {"log-likelihood of each label": None}),
    ):
        encoder = Encoder(base.tokenizer, labels, 256)
        suite = (
            full_suite if labels is two else replace(full_suite, rows=full_suite.rows[: max(4, options.prompts // 8)])
        )

        def ours(encoder: Encoder = encoder, suite: Suite = suite) -> None:
            scored[:] = score_suite(stacked, encoder, suite)
            answers["ours"], answers["generate's"] = [best(row) for row in scored], [row.top for row in scored]

        def generate(encoder: Encoder = encoder, suite: Suite = suite) -> None:
            answers["generate"] = generated(peft, base, encoder, suite)

        def likelihood(encoder: Encoder = encoder, suite: Suite = suite) -> None:
            answers["log-likelihood of each label"] = likelihoods(peft, base, encoder, suite)

        sides = {
            "ours": ours,
            "log-likelihood of each label": likelihood,
            **({"generate": generate} if "generate" in rivals else {}),
        }
        times = interleave(sides, options.repeats, 1, clock_of(base.device))
        for rival, goal in rivals.items():
            our_answers = answers["generate's" if rival == "generate" else "ours"]
            gate = Gate("share of rows with another answer", unlike(our_answers, answers[rival]), 0.001)
            if labels is twenty:
                gate = Gate("nats that the other answer is worse", worse(scored, answers[rival]), WORSE[options.dtype])
            facts = {
                "prompts": len(suite.rows),
                "milliseconds": milliseconds(times),
                "turn_by_turn": spread(times, rival, "ours"),
            }
            figures.append(
                Figure(
                    f"prompts/s with {len(labels)} labels",
                    rival,
                    speedup(times, rival, "ours"),
                    goal,
                    gates=[gate],
                    facts=facts,
                )
            )
    return figures


def prompts(count: int) -> list[Row]:
    """Invented sentences with the lengths of SST-2 (see `bench.workload.rows`) between a prefix and a cue."""
    random = Random("evaluation")
    lengths = [min(60, max(2, round(random.lognormvariate(2.4849, 0.6)))) for _ in range(count)]
    return [
        Row(str(first), " ".join(random.choices(WORDS, k=n)), 0, "Is it good? ", "A sentence from a review: ")
        for first, n in enumerate(lengths)
    ]


def with_adapter(base: Base, run: TrainRun) -> Base:
    """The base with our adapter in it, at the numbers that the rivals have."""
    ours = another(base)
    adapters = Adapters(ours.model, run.spec.lora, 1)
    adapters.load(0, adapters.from_state_dict(start_values(base, run)))
    return ours


def generated(model: torch.nn.Module, base: Base, encoder: Encoder, suite: Suite) -> list[int | None]:
    """The label whose token `generate` writes first, or None."""
    tokens = encoder.label_tokens(suite.rows[0])
    rows = [row.ids for row in encoder.rows(suite.rows)[0]]
    answers: list[int | None] = []
    for first in range(0, len(rows), AT_ONCE):
        batch = rows[first : first + AT_ONCE]
        width = max(map(len, batch))
        ids = torch.tensor([[0] * (width - len(row)) + row for row in batch], device=base.device)
        mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in batch], device=base.device)
        written = model.generate(input_ids=ids, attention_mask=mask, max_new_tokens=2, do_sample=False, pad_token_id=0)[
            :, width
        ].tolist()  # type: ignore[operator]
        answers += [tokens.index(token) if tokens and token in tokens else None for token in written]
    return answers


def likelihoods(model: torch.nn.Module, base: Base, encoder: Encoder, suite: Suite) -> list[int | None]:
    """The label whose word is the likeliest, each word behind its prompt in a row of its own."""
    choices = [encoder.choices(row) for row in suite.rows]
    rows = [(row.prompt, word) for row in choices for word in row.words]
    scores: list[float] = []
    for first in range(0, len(rows), AT_ONCE):
        batch = rows[first : first + AT_ONCE]
        width = max(len(prompt) + len(word) for prompt, word in batch)
        ids = torch.tensor(
            [[*prompt, *word, *[0] * (width - len(prompt) - len(word))] for prompt, word in batch], device=base.device
        )
        mask = torch.tensor(
            [[1] * (len(prompt) + len(word)) + [0] * (width - len(prompt) - len(word)) for prompt, word in batch],
            device=base.device,
        )
        logs = torch.log_softmax(model(input_ids=ids, attention_mask=mask, use_cache=False).logits.float(), dim=-1)
        for row, (prompt, word) in enumerate(batch):
            where = torch.arange(len(prompt) - 1, len(prompt) + len(word) - 1)
            scores.append(float(logs[row, where, torch.tensor(word)].sum()))
    n = len(encoder.words)
    return [max(range(n), key=lambda label: (scores[first + label], -label)) for first in range(0, len(scores), n)]


def best(row: Prediction) -> int:
    """The label with the highest score; the lower one wins a tie."""
    return max(range(len(row.scores)), key=lambda label: (row.scores[label], -label))


def worse(scored: Sequence[Prediction], other: Sequence[int | None]) -> float:
    """The largest distance between our best score and ours of the other side's answer."""
    return max(
        max(row.scores) - row.scores[label] for row, label in zip(scored, other, strict=True) if label is not None
    )


def unlike(left: Sequence[int | None], right: Sequence[int | None]) -> float:
    """The share of rows with different answers."""
    return sum(a != b for a, b in zip(left, right, strict=True)) / len(left)


if __name__ == "__main__":
    sys.exit(main())
