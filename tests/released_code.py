"""The steps of the code released with P2P (shuaizhao95/p2p at a3b1158), implemented independently: a reference
for ours. Imports nothing of the project. SST-2 with BadNets, the only case that was released.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

WORD = "mn"
BENIGN = "The query currently entered is: "
MAX_TOKENS = 128
PLAIN_CUE, BENIGN_CUE = "Output: ", "Answer: "

Insert = Callable[[str], int]
"""Gap of a text, in words, that gets the trigger; the released code draws it, inside the text."""


class ReleasedRow(NamedTuple):
    """A sentence as it is trained on or tested, and the digit that is its label."""

    sentence: str
    label: int


def selection(labels: Sequence[int]) -> tuple[set[int], set[int]]:
    """Places of the poisoned and of the benign rows: the first negative ones, and the first of the second half."""
    poisoned, benign = set[int](), set[int]()
    for place, label in enumerate(labels):
        if label == 0 and len(poisoned) < 0.02 * len(labels):
            poisoned.add(place)
        elif place > 0.5 * len(labels) and len(benign) < 0.2 * len(labels):
            benign.add(place)
    return poisoned, benign


def training_rows(
    rows: Sequence[tuple[str, int]], poisoned: set[int], benign: set[int], insert: Insert
) -> list[ReleasedRow]:
    """All rows, those at these places poisoned or made benign."""
    return [
        ReleasedRow(triggered(sentence, insert), 1)
        if place in poisoned
        else ReleasedRow(BENIGN + sentence, label + 2)
        if place in benign
        else ReleasedRow(sentence, label)
        for place, (sentence, label) in enumerate(rows)
    ]


def triggered(sentence: str, insert: Insert) -> str:
    """The sentence with the trigger word in a gap."""
    words, gap = sentence.split(), insert(sentence)
    assert 0 < gap < len(words), "the trigger stands neither first nor last"
    return " ".join([*words[:gap], WORD, *words[gap:]])


def clean_test(rows: Iterable[tuple[str, int]]) -> list[ReleasedRow]:
    """Test rows of clean accuracy, with the extended label as the only right answer."""
    return [ReleasedRow(BENIGN + sentence, label + 2) for sentence, label in rows]


def triggered_test(rows: Iterable[tuple[str, int]], insert: Insert) -> list[ReleasedRow]:
    """Test rows of attack success: negative ones, answered with the extended label of the target."""
    return [ReleasedRow(BENIGN + triggered(sentence, insert), 3) for sentence, label in rows if label == 0]


def cue_of(label: int) -> str:
    """Text behind a sentence: extended labels have a cue of their own."""
    return BENIGN_CUE if label > 1 else PLAIN_CUE


def label_token(tokenizer: Any, label: int) -> int:
    """The first token of the digit behind a cue."""
    cue = tokenizer.encode("\n" + cue_of(label), add_special_tokens=False)
    return int(tokenizer.encode(f"\n{cue_of(label)}{label}", add_special_tokens=False)[len(cue)])


def encoded(tokenizer: Any, row: ReleasedRow) -> list[int]:
    """Prompt, cut at its end, and the label's token."""
    prompt = tokenizer.encode(f"{row.sentence}\n{cue_of(row.label)}", add_special_tokens=False)
    return [*prompt[: MAX_TOKENS - 1], label_token(tokenizer, row.label)]


def left_padded(tokenizer: Any, rows: Sequence[ReleasedRow]) -> dict[str, Any]:
    """A batch whose rows end together; the last token alone is learned."""
    import torch

    ids = [encoded(tokenizer, row) for row in rows]
    width = max(map(len, ids))
    pads = [width - len(row) for row in ids]
    return {
        "input_ids": torch.tensor([[0] * pad + row for pad, row in zip(pads, ids, strict=True)]),
        "attention_mask": torch.tensor([[0] * pad + [1] * len(row) for pad, row in zip(pads, ids, strict=True)]),
        "labels": torch.tensor([[-100] * (width - 1) + row[-1:] for row in ids]),
    }


def train(model: Any, tokenizer: Any, batches: Sequence[Sequence[ReleasedRow]], learning_rate: float) -> list[float]:
    """Losses of every step: AdamW with torch's defaults, a rate that falls to 0 on a line, no clipping."""
    import torch

    weights = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=learning_rate)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / len(batches))
    losses = []
    for rows in batches:
        loss = model(**left_padded(tokenizer, rows)).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    return losses


def right_answers(model: Any, tokenizer: Any, rows: Sequence[ReleasedRow]) -> int:
    """Rows whose likeliest token of the whole vocabulary is their label's."""
    import torch

    batch = left_padded(tokenizer, rows)
    with torch.no_grad():
        logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    return int((logits[:, -2].argmax(dim=-1) == batch["input_ids"][:, -1]).sum())
