"""One family against plain transformers and PEFT, each row alone: loss, gradients, label scores, generated tokens."""

import re
import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch.nn import functional
from transformers import GenerationConfig

from p2p_dist.config.families import Mode
from p2p_dist.config.study import LoraSpec
from p2p_dist.errors import UserError
from p2p_dist.evaluation.generation import GREEDY
from p2p_dist.evaluation.sequence_scoring import score_words
from p2p_dist.modeling import attention
from p2p_dist.modeling.base import Base
from p2p_dist.modeling.forward import answer_logits
from p2p_dist.modeling.guard import choose_attention
from p2p_dist.modeling.lengths import before_forward
from p2p_dist.modeling.lora import Adapters
from p2p_dist.modeling.lora_targets import unadapted_weights
from p2p_dist.modeling.packing import pack
from p2p_dist.modeling.random_init import byte_tokenizer
from p2p_dist.modeling.tokenization import Choices, Encoded
from p2p_dist.training.adapter_io import load_adapter, save_adapter
from p2p_dist.training.objectives import cross_entropy
from p2p_dist.training.peft_reload import require_same_in_peft
from tests.zoo.families import VOCABULARY, tiny_config, tiny_model

LENGTHS = (1, 5, 19, 33, 8)
WORDS = ([40, 41], [40, 42, 43], [50])
NEW, END = 4, VOCABULARY - 1


@dataclass(frozen=True)
class Outcome:
    """Largest differences from plain transformers and PEFT; `targets` are None for all linear layers."""

    family: str
    mode: Mode
    loss: float
    gradients: float
    scores: float
    same_text: bool
    targets: tuple[str, ...] | None
    without_adapter: tuple[str, ...]


def tiny_base(family: str, **changes: Any) -> Base:
    """A tiny base with the attention that the guard chose."""
    attention.register()
    model = tiny_model(tiny_config(family, **changes))
    choose_attention(model, {"family": family, **{name: str(value) for name, value in changes.items()}})
    return Base(model, byte_tokenizer(), torch.device("cpu"), torch.float32)


def check(name: str, family: str, changes: dict[str, Any], lengths: Sequence[int] = LENGTHS) -> Outcome:
    """Compute a family's rows in both ways."""
    base = tiny_base(family, **changes)
    mode: Mode = "packed" if base.model.config._attn_implementation == attention.NAME else "row by row"
    spec = _targets(base, name)
    rows = [
        Encoded(str(row), [(7 * row + 3 * token + 11) % (VOCABULARY - 2) for token in range(length)], [row + 3])
        for row, length in enumerate(lengths)
    ]
    adapters = Adapters(base.model, spec, 1)
    without = tuple(unadapted_weights(base.model))
    values = torch.randn(adapters.size, generator=torch.Generator().manual_seed(1)) * 0.2
    with tempfile.TemporaryDirectory() as folder:
        save_adapter(Path(folder), adapters, values, family)
        load_adapter(Path(folder), adapters, 0)
        ours = _ours(base, adapters, rows)
        expected = _expected(tiny_model(tiny_config(family, **changes)), Path(folder), rows)
    return Outcome(
        name,
        mode,
        _apart(ours[0], expected[0]),
        max(_apart(ours[1][key], gradient) for key, gradient in expected[1].items()),
        _apart(ours[2], expected[2]),
        ours[3] == expected[3],
        None if spec.target_modules == "all-linear" else tuple(spec.target_modules),
        without,
    )


def _targets(base: Base, name: str) -> LoraSpec:
    """All linear layers, or those that PEFT reads back."""
    spec = LoraSpec(r=2, alpha=4, dropout=0.0)
    try:
        require_same_in_peft(base, spec, {"family": name})
    except UserError as error:
        named = re.search(r"target_modules=\[(.*?)\]", error.problems[0].fix)
        if error.problems[0].code != "E296" or named is None:
            raise
        spec = LoraSpec(r=2, alpha=4, dropout=0.0, target_modules=tuple(named[1].split(", ")))
        require_same_in_peft(base, spec, {"family": name})
    return spec


Computed = tuple[torch.Tensor, dict[str, torch.Tensor], torch.Tensor, list[list[int]]]
"""Loss of every row, gradients of the mean loss, log-probabilities of words, generated tokens."""


def _ours(base: Base, adapters: Adapters, rows: Sequence[Encoded]) -> Computed:
    batch = pack([rows])
    loss = cross_entropy(base, batch, torch.tensor([len(rows)]))
    loss.sum().backward()
    gradients = adapters.state_dict(adapters.flat_grads[0].clone())
    with torch.no_grad():
        logits = answer_logits(base.model, batch.ids, batch.positions, batch.packed, batch.answers)
        losses = functional.cross_entropy(logits, batch.targets, reduction="none")
        choices = [Choices(row.id, list(row.ids), [list(word) for word in WORDS]) for row in rows]
        scores = torch.tensor([row for row, _ in score_words(base, choices, lambda done: None)])
        prompts = [list(row.ids) for row in rows]
        texts: dict[int, list[int]] = {}
        for indices in GREEDY.batches(base, prompts, NEW):
            written = GREEDY.write(base, [prompts[index] for index in indices], NEW, END)
            texts.update(zip(indices, [answer.ids for answer in written], strict=True))
    return losses, gradients, scores, [texts[index] for index in range(len(rows))]


def _expected(model: Any, folder: Path, rows: Sequence[Encoded]) -> Computed:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        peft = PeftModel.from_pretrained(model, folder, is_trainable=True).eval()
    losses = []
    for row in rows:
        _forget(model)
        logits = peft(input_ids=torch.tensor([row.ids]), use_cache=False).logits[0, -1:]
        losses.append(functional.cross_entropy(logits.float(), torch.tensor(row.targets)))
    torch.stack(losses).mean().backward()
    gradients = {
        name.replace(".default", ""): torch.zeros_like(weight) if weight.grad is None else weight.grad
        for name, weight in peft.named_parameters()
        if weight.requires_grad
    }
    with torch.no_grad():
        scores = torch.tensor([[log_likelihood(model, row.ids, word) for word in WORDS] for row in rows])
        texts = [_continue(model, row.ids) for row in rows]
    return torch.stack(losses).detach(), gradients, scores, texts


def log_likelihood(model: Any, prompt: Sequence[int], word: Sequence[int]) -> float:
    """Of a word behind its prompt, alone in a plain forward pass."""
    _forget(model)
    logits = model(input_ids=torch.tensor([[*prompt, *word[:-1]]]), use_cache=False).logits[0, -len(word) :]
    return float(torch.log_softmax(logits.float(), -1).gather(1, torch.tensor(word)[:, None]).sum())


def _continue(model: Any, prompt: Sequence[int]) -> list[int]:
    _forget(model)
    settings = GenerationConfig(max_new_tokens=NEW, do_sample=False, eos_token_id=END, pad_token_id=END)
    model.generation_config = GenerationConfig()
    ids = torch.tensor([list(prompt)])
    written = model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=settings)
    return list(written[0, len(prompt) :].tolist())


def _forget(model: Any) -> None:
    """Let dynamic rotary frequencies forget rows that came before, as in a model that was just loaded."""
    before_forward(model)


def _apart(ours: torch.Tensor, expected: torch.Tensor) -> float:
    return float((ours - expected).abs().max())
