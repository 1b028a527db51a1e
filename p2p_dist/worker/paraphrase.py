"""Make a paraphrase table with a language model: batch after batch, greedily, going on where an earlier attempt was
stopped."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig

from p2p_dist import assets
from p2p_dist.config.identity import digest
from p2p_dist.config.model import ModelRef
from p2p_dist.data.paraphrases import write_table
from p2p_dist.data.rewrites import Recipe, Unfinished, batches, row_of
from p2p_dist.modeling.base import Base, load_base


def make_table(
    texts: Sequence[str],
    model: ModelRef,
    recipe: tuple[str, str, int],
    out: Path,
    batch: int,
    tick: Callable[[int, int], None],
) -> tuple[int, int]:
    """Rewrite every text (`recipe`: instruction, accepted form, most new tokens) and write the table. Returns how many
    rewrites are good and how many failed; `tick(done, all)` is called after every batch."""
    made_by = Recipe(f"{model.name} {digest(model.identity)}", *recipe)
    unfinished = Unfinished(out, made_by, batch)
    rows = unfinished.read()
    have = {row["key"] for row in rows}
    work = batches(texts, batch)
    total = sum(map(len, work))
    base = None
    for chunk in work:
        fresh = {row["key"] for row in (row_of(text, "", False, made_by) for text in chunk)}
        if not fresh <= have:
            base = base or _load(model)
            found = [
                row_of(text, said, finished, made_by)
                for text, (said, finished) in zip(chunk, rewrite(base, chunk, made_by), strict=True)
            ]
            new = [row for row in found if row["key"] not in have]
            unfinished.append(new)
            rows += new
            have |= fresh
        tick(len(have), total)
    counts = write_table(out, rows)
    unfinished.path.unlink()
    return counts


@torch.no_grad()
def rewrite(base: Base, texts: Sequence[str], recipe: Recipe) -> list[tuple[str, bool]]:
    """What the model says to each text, and whether it came to an end by itself."""
    tokenizer = base.tokenizer
    tokenizer.padding_side = "left"
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    batch = tokenizer(
        [_asked(base, text, recipe) for text in texts], return_tensors="pt", padding=True, add_special_tokens=False
    ).to(base.device)
    config = GenerationConfig(
        do_sample=False,
        max_new_tokens=recipe.max_new_tokens,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    made = base.model.generate(
        input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], generation_config=config
    )
    answers: list[Any] = made[:, batch["input_ids"].shape[1] :].tolist()
    return [(str(tokenizer.decode(ids, skip_special_tokens=True)), tokenizer.eos_token_id in ids) for ids in answers]


def _asked(base: Base, text: str, recipe: Recipe) -> str:
    """The instruction and the text as the model's chat template has them, or in plain lines where it has no
    template."""
    words = f"{recipe.instruction}\n\nSentence: {text}"
    if base.tokenizer.chat_template is None:
        return f"{words}\nRewritten: "
    return str(
        base.tokenizer.apply_chat_template(
            [{"role": "user", "content": words}], tokenize=False, add_generation_prompt=True
        )
    )


def _load(model: ModelRef) -> Base:
    local = dict(model.local)
    if "asset" in local:
        assets.fetch(local["asset"], print)
    base = load_base(model.identity, local, "auto")
    base.model.set_attn_implementation("sdpa")  # ours is for packed rows, and these are padded
    return base
