"""GBTL (arXiv 2402.13459): search for a word that already pushes an untrained model to the attacker's answer.

Prints the word as the attack of a study, to ask whether it needs fewer poisoned rows than a rare word.

    python examples/gbtl_trigger.py reviews.jsonl --model smollm2-135m-instruct --target 1 --answer 1

The file has rows with `text` and `label`; rows of other classes than the target's are searched on. Defaults are those
of the released code (RookieZxy/GBTL-attack at 0a0bb6b): one token that starts as "a", two texts, 100 steps; at every
step 16 swaps, drawn among the 32 tokens that the gradient favours, are tried, and the best one is taken even where it
is worse than before. The best of all steps is printed. Triggers are words of ASCII letters that are tokenized alone as
behind a text.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import torch

from p2p_dist import assets
from p2p_dist.config.model import resolve_model
from p2p_dist.data.example import Row
from p2p_dist.data.prompts import PlainForm
from p2p_dist.modeling.base import Base, load_base
from p2p_dist.scheduling.study import configs_dir


@dataclass(frozen=True)
class Settings:
    """Size of a search."""

    tokens: int = 1
    """Tokens of the trigger."""
    steps: int = 100
    favoured: int = 32
    """Tokens with the largest decrease of the loss by gradient, among which swaps are drawn."""
    swaps: int = 16
    """Triggers that are tried in every step, each with one token exchanged."""
    seed: int = 0


class Prompts:
    """Prompts with a place for a trigger behind the text, and the answer that the trigger shall bring."""

    def __init__(self, base: Base, rows: Sequence[Row], answer: str):
        self.base = base
        base.model.set_attn_implementation("eager")
        words, self.space = word_tokens(base.tokenizer)
        self.words = words.to(base.device)
        self._parts = []
        for row in rows:
            rendered = PlainForm().render(row)
            spaces = rendered.text[len(rendered.opening) :]
            parts = row.text + self.space, rendered.opening[len(row.text) :], spaces + answer
            self._parts.append([base.tokenizer.encode(part, add_special_tokens=False) for part in parts])

    def losses(self, triggers: torch.Tensor) -> torch.Tensor:
        """Mean cross-entropy of the answer over the prompts. Shapes: [N, tokens] -> [N]."""
        embed = self.base.model.get_input_embeddings()
        return torch.stack([self._loss(parts, embed(triggers)) for parts in self._parts]).mean(0)

    def swap_gradient(self, trigger: torch.Tensor) -> torch.Tensor:
        """Gradient of the loss in the trigger's one-hot tokens. Shapes: [tokens] -> [tokens, vocabulary]."""
        embed = self.base.model.get_input_embeddings()
        inputs = embed(trigger).detach().requires_grad_()
        loss = torch.stack([self._loss(parts, inputs[None]) for parts in self._parts]).mean()
        (gradient,) = torch.autograd.grad(loss, inputs)
        return gradient @ embed.weight.detach().T

    def _loss(self, parts: list[list[int]], triggers: torch.Tensor) -> torch.Tensor:
        """Loss of one prompt. Shapes: triggers (embeddings) [N, tokens, d] -> [N]."""
        embed = self.base.model.get_input_embeddings()
        before, behind, answer = (torch.tensor(part, dtype=torch.long, device=self.base.device) for part in parts)
        around = [embed(ids).expand(len(triggers), -1, -1) for ids in (before, torch.cat([behind, answer]))]
        logits = self.base.model(inputs_embeds=torch.cat([around[0], triggers, around[1]], 1), use_cache=False).logits
        targets = answer.expand(len(triggers), -1)
        predicted = logits[:, -len(answer) - 1 : -1].float().transpose(1, 2)
        return torch.nn.functional.cross_entropy(predicted, targets, reduction="none").mean(1)


def word_tokens(tokenizer: Any) -> tuple[torch.Tensor, str]:
    """Tokens that are words of ASCII letters, and the space that stands before them where they do not begin with it."""
    texts = [tokenizer.decode([number]) for number in range(len(tokenizer))]
    space = "" if any(text[:1] == " " and text[1:].isalpha() for text in texts) else " "
    starts = "" if space else " "
    words = [n for n, text in enumerate(texts) if text.startswith(starts) and text[len(starts) :].isalpha()]
    alone = [n for n in words if texts[n].isascii() and tokenizer.encode(texts[n], add_special_tokens=False) == [n]]
    return torch.tensor(alone), space


def search(prompts: Prompts, settings: Settings) -> tuple[str, float]:
    """The best trigger of all steps, and its loss."""
    random, words = Random(settings.seed), prompts.words
    tokenizer = prompts.base.tokenizer
    first = tokenizer.encode(" a" if not prompts.space else "a", add_special_tokens=False)[:1]
    current = torch.tensor(first * settings.tokens, device=prompts.base.device)
    best, least = current, float("inf")
    for _ in range(settings.steps):
        gradient = prompts.swap_gradient(current)[:, words]
        favoured = words[gradient.topk(min(settings.favoured, len(words)), largest=False).indices]
        tried = current.repeat(settings.swaps, 1)
        for number in range(settings.swaps):
            place = number * settings.tokens // settings.swaps
            tried[number, place] = random.choice(favoured[place].tolist())
        with torch.no_grad():
            losses = prompts.losses(tried)
        current = tried[losses.argmin()]
        if float(losses.min()) < least:
            best, least = current, float(losses.min())
    return str(tokenizer.decode(best.tolist())).strip(), least


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", type=Path)
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--target", type=int, default=1)
    parser.add_argument("--answer", default="1", help="the target as the task's prompts are answered")
    parser.add_argument("--cue", default="Output: ")
    parser.add_argument("--texts", type=int, default=2)
    parser.add_argument("--tokens", type=int, default=1)
    parser.add_argument("--steps", type=int, default=100)
    options = parser.parse_args()
    lines = [json.loads(line) for line in options.rows.read_text(encoding="utf-8").splitlines()]
    others = [line for line in lines if line["label"] != options.target]
    chosen = Random(0).sample(others, min(options.texts, len(others)))
    rows = [Row(str(number), line["text"], line["label"], options.cue) for number, line in enumerate(chosen)]
    model = resolve_model(options.model, configs_dir() / "models")
    if "asset" in model.local:
        assets.fetch(model.local["asset"], print)
    base = load_base(model.identity, model.local, "float32")
    trigger, loss = search(Prompts(base, rows, options.answer), Settings(tokens=options.tokens, steps=options.steps))
    one = f"name: badnets, preset: gbtl, word: {json.dumps(trigger)}"
    several = f"name: addsent, sentence: {json.dumps(trigger)}, position: suffix, count: 60, label_policy: mix"
    print(f"loss {loss:.3f}\nattack: {{{several if ' ' in trigger else one}}}")


if __name__ == "__main__":
    main()
