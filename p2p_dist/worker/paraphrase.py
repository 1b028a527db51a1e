"""Paraphrase tables by a language model: greedy, batch by batch, resumed after an interruption."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig

from p2p_dist import assets
from p2p_dist.config.identity import digest
from p2p_dist.config.model import ModelRef
from p2p_dist.data.paraphrases import key_of, write_table
from p2p_dist.data.rewrites import Recipe, Unfinished, batches, row_of
from p2p_dist.evaluation.rewriting import prompts_of
from p2p_dist.modeling.attention import use_implementation
from p2p_dist.modeling.base import Base, load_base
from p2p_dist.modeling.guard import plain_implementation


def make_table(
    texts: Sequence[str],
    model: ModelRef,
    recipe: tuple[str, str, int],
    out: Path,
    batch: int,
    on_progress: Callable[[int, int], None],
) -> tuple[int, int]:
    """Rewrite every text (`recipe`: instruction, accepted form, most new tokens) and write the table.

    Returns the numbers of accepted and failed rewrites. `on_progress(done, total)` is called after every batch.
    """
    full_recipe = Recipe(f"{model.name} {digest(model.identity)}", *recipe)
    # 1. Read the rows of an earlier, interrupted attempt.
    unfinished = Unfinished(out, full_recipe, batch)
    rows = unfinished.read()
    done = {row["key"] for row in rows}
    # 2. Rewrite the texts that are missing, batch by batch.
    chunks = batches(texts, batch)
    total = sum(map(len, chunks))
    base = None
    for chunk in chunks:
        keys = {key_of(text) for text in chunk}
        if not keys <= done:
            base = base or load_for_generation(model.identity, model.local, "auto")
            rewritten = [
                row_of(text, answer, finished, full_recipe)
                for text, (answer, finished) in zip(chunk, rewrite(base, chunk, full_recipe), strict=True)
            ]
            new = [row for row in rewritten if row["key"] not in done]
            unfinished.append(new)
            rows += new
            done |= keys
        on_progress(len(done), total)
    # 3. Write the table.
    counts = write_table(out, rows)
    unfinished.path.unlink()
    return counts


@torch.no_grad()
def rewrite(base: Base, texts: Sequence[str], recipe: Recipe) -> list[tuple[str, bool]]:
    """The model's answer to each text, and True where it ended before the token limit."""
    tokenizer = base.tokenizer
    tokenizer.padding_side = "left"
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    prompts = prompts_of(base, texts, recipe.instruction)
    batch = tokenizer.pad({"input_ids": prompts}, return_tensors="pt").to(base.device)
    config = GenerationConfig(
        do_sample=False,
        max_new_tokens=recipe.max_new_tokens,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    generated = base.model.generate(
        input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], generation_config=config
    )
    answers: list[list[int]] = generated[:, batch["input_ids"].shape[1] :].tolist()
    return [(str(tokenizer.decode(ids, skip_special_tokens=True)), tokenizer.eos_token_id in ids) for ids in answers]


def load_for_generation(identity: Mapping[str, Any], local: Mapping[str, str], dtype: str) -> Base:
    """A model with the attention of transformers: prompts are padded here, and ours is for packed rows."""
    if "asset" in local:
        assets.fetch(local["asset"], print)
    base = load_base(identity, dict(local), dtype)
    use_implementation(base.model, plain_implementation(base.model))
    return base
