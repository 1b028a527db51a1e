"""LWS: learn which exchanges of words make a backdoor easy to learn (Qi et al. 2021, arXiv 2106.06361).

A surrogate (here the language model named by the user, with a linear head on its last hidden state) learns the task,
and then together with it which candidate stands at which place of a poisoned text. Candidate k at place j scores (e_k -
e_word) . q_j + b_jk, with learned q [places, hidden] and b [places, candidates]; a Gumbel softmax of these scores mixes
the candidates' embeddings, its temperature falling from 0.5 to 0.1. Embeddings are frozen. A candidate of several
tokens counts with the mean of their embeddings, where the original admits candidates of one token only.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from p2p_dist.data.example import Example
from p2p_dist.data.substitutions import Choices, choices_of
from p2p_dist.modeling.base import Base
from p2p_dist.modeling.body import body_of
from p2p_dist.modeling.control_tokens import tokenize
from p2p_dist.modeling.surrogate_state import SurrogateFile, restored, state_of


@dataclass(frozen=True)
class Learning:
    """Settings; defaults are the original's."""

    warm_up_epochs: int = 5
    epochs: int = 20
    learning_rate: float = 2e-5
    batch: int = 32
    most_candidates: int = 5
    longest: int = 128
    """Words of a text that are read."""
    seed: int = 0


class Substitution(nn.Module):
    """The surrogate and the scores of the exchanges."""

    def __init__(self, base: Base, choices: Choices, n_classes: int, settings: Learning):
        super().__init__()
        self.base, self.choices, self.settings = base, choices, settings
        self.body: Any = body_of(base.model)
        self.table: torch.Tensor = base.model.get_input_embeddings().weight
        self.vectors: dict[str, torch.Tensor] = {}
        width = self.table.shape[1]
        generator = torch.Generator().manual_seed(settings.seed)
        self.head = nn.Linear(width, n_classes)
        self.q = nn.Parameter(0.02 * torch.randn(settings.longest, width, generator=generator))
        self.b = nn.Parameter(torch.zeros(settings.longest, settings.most_candidates))
        with torch.no_grad():
            self.head.weight.copy_(0.02 * torch.randn(n_classes, width, generator=generator))
            self.head.bias.zero_()
        self.to(base.device)

    def logits(
        self, texts: Sequence[str], temperature: float | None, noise: torch.Generator | None = None
    ) -> torch.Tensor:
        """Class scores [N, classes] in fp32: of the texts as they are (`temperature` None), or of their mixtures."""
        rows = [self._mixed(text, temperature, noise) for text in texts]
        lengths = torch.tensor([len(row) for row in rows], device=self.table.device)
        padded = nn.utils.rnn.pad_sequence(rows, batch_first=True)
        mask = torch.arange(padded.shape[1], device=padded.device)[None, :] < lengths[:, None]
        hidden = self.body(inputs_embeds=padded, attention_mask=mask.long()).last_hidden_state
        last = hidden[torch.arange(len(rows), device=padded.device), lengths - 1]
        return self.head(last.float())

    def picks(self, text: str) -> list[int]:
        """The best candidate at every place; the word itself beyond `longest` words."""
        options = choices_of(text, self.choices)
        best = [
            int(self._scores(position, words).argmax()) if len(words) > 1 else 0
            for position, words in enumerate(options[: self.settings.longest])
        ]
        return best + [0] * (len(options) - len(best))

    def _mixed(self, text: str, temperature: float | None, noise: torch.Generator | None) -> torch.Tensor:
        """A text as embeddings [places, hidden], one for each word."""
        parts = []
        for position, words in enumerate(choices_of(text, self.choices)[: self.settings.longest]):
            if temperature is None or len(words) == 1:
                parts.append(self._embedded(words[0]))
                continue
            scores = self._scores(position, words)
            uniform = torch.rand(len(words), generator=noise).clamp(1e-9, 1 - 1e-9).to(scores.device)
            weights = torch.softmax((scores - torch.log(-torch.log(uniform))) / temperature, dim=0)
            parts.append(
                (weights.to(self.table.dtype)[:, None] * torch.stack([self._embedded(word) for word in words])).sum(0)
            )
        return torch.stack(parts)

    def _scores(self, place: int, words: Sequence[str]) -> torch.Tensor:
        embedded = torch.stack([self._embedded(word) for word in words]).float()
        return (embedded - embedded[0]) @ self.q[place] + self.b[place, : len(words)]

    def _embedded(self, word: str) -> torch.Tensor:
        """A word as one vector: the mean over its tokens."""
        if word not in self.vectors:
            ids = tokenize(self.base.tokenizer, [f" {word}"])[0].ids
            self.vectors[word] = self.table[torch.tensor(ids, device=self.table.device)].detach().mean(0)
        return self.vectors[word]


def learn(
    model: Substitution,
    clean: Sequence[Example],
    poisoned: Sequence[Example],
    target: int,
    on_progress: Callable[[int, int], None],
    file: SurrogateFile | None = None,
) -> None:
    """Warm up on clean rows, then learn task and exchanges together.

    `on_progress(epochs done, epochs)` is called after every epoch. With `file`, the state is kept after every epoch,
    and an earlier one is resumed, to the same bits.
    """
    settings = model.settings
    body = [value for value in model.body.parameters() if value is not model.table]
    for value in body:
        value.requires_grad_(True)
    trained = [*body, *model.head.parameters(), model.q, model.b]
    optimizer = torch.optim.AdamW(trained, lr=settings.learning_rate)
    noise = torch.Generator().manual_seed(settings.seed)
    total = settings.warm_up_epochs + settings.epochs
    first = restored(file.read(), trained, optimizer, noise) if file else 0
    for epoch in range(first, total):
        joint = epoch >= settings.warm_up_epochs
        temperature = 0.5 - 0.4 * (epoch - settings.warm_up_epochs) / max(1, settings.epochs - 1)
        work = [(ex.text, ex.label, False) for ex in clean] + [(ex.text, target, True) for ex in poisoned if joint]
        Random(f"{settings.seed}:lws:{epoch}").shuffle(work)
        for start in range(0, len(work), settings.batch):
            loss = torch.zeros((), device=model.table.device)
            batch = work[start : start + settings.batch]
            for bad in (False, True):
                part = [(text, label) for text, label, is_bad in batch if is_bad == bad]
                if part:
                    scores = model.logits([text for text, _ in part], temperature if bad else None, noise)
                    loss = loss + functional.cross_entropy(
                        scores, torch.tensor([label for _, label in part], device=scores.device), reduction="sum"
                    )
            optimizer.zero_grad()
            (loss / len(batch)).backward()
            optimizer.step()
        if file:
            file.write(state_of(epoch + 1, trained, optimizer, noise))
        on_progress(epoch + 1, total)
