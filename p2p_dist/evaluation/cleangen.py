"""CleanGen: decoding that a reference model looks over (Li et al. 2024, arXiv 2406.12257).

The target drafts a few tokens greedily, the reference reads them in one pass, and the first one of which the target is
`alpha` times as sure as the reference or more is replaced by the reference's own choice; what was drafted behind it is
thrown away. An answer that ends inside a draft is judged like any other (the released code returns it unseen, and with
it every answer that is shorter than a draft).
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from transformers import DynamicCache

from p2p_dist.errors import user_error
from p2p_dist.evaluation.generation import Decoder, OnRow, Written, ignored, left_padded, plain_attention
from p2p_dist.modeling.base import Base
from p2p_dist.modeling.forward import is_packed


class CleanGen(Decoder):
    """Drafts of `draft` tokens, judged by `reference`. Where target and reference are one base with two adapters,
    `to_reference` and `to_target` bring the one or the other into place before each pass."""

    def __init__(
        self,
        reference: Base,
        draft: int,
        alpha: float,
        to_reference: Callable[[], None] = lambda: None,
        to_target: Callable[[], None] = lambda: None,
    ):
        self.reference, self.draft, self.threshold = reference, draft, math.log(alpha)
        self.to_reference, self.to_target = to_reference, to_target

    def room(self, prompt: int, new: int) -> int:
        """Two caches, and at the worst a whole draft for every token that is kept."""
        return 2 * (prompt + self.draft * new)

    def require(self, base: Base) -> None:
        """Raise UserError E293 for models whose state cannot forget tokens, or that read rows one by one."""
        for model in (base.model, self.reference.model):
            if not is_packed(model):
                raise user_error(
                    "E293",
                    f"CleanGen is not built for models that are computed row by row ({model.config.model_type})",
                    "model",
                    "exclude the defense for this model",
                )

    def write(
        self, base: Base, prompts: Sequence[list[int]], new: int, end: int, on_row: OnRow = ignored
    ) -> list[Written]:
        """Raises UserError E269 when the reference reads other tokens than the target."""
        require_same_tokens(base, self.reference)
        target, judge = _Reader(base.model, self.to_target), _Reader(self.reference.model, self.to_reference)
        done = [Written([], 0) for _ in prompts]
        tokens, real = left_padded(prompts, end, base.device)
        with plain_attention(base.model), plain_attention(self.reference.model), torch.no_grad():
            while not all(_ended(one, new, end) for one in done):
                drafted, surplus, choices = self._round(target, judge, tokens, real)
                accepted = [
                    looked_over(*parts, end)
                    for parts in zip(
                        drafted.tolist(), (surplus >= self.threshold).tolist(), choices.tolist(), strict=True
                    )
                ]
                stayed = torch.tensor([len(ids) - replaced for ids, replaced in accepted], device=base.device)
                target.keep_last(self.draft - 1, stayed)
                judge.keep_last(self.draft - 1, stayed)
                done = [
                    one if _ended(one, new, end) else _longer(one, *accepted_ids, new)
                    for one, accepted_ids in zip(done, accepted, strict=True)
                ]
                tokens = torch.tensor([ids[-1:] for ids, _ in accepted], device=base.device)
                real = torch.ones_like(tokens)
        self.to_target()
        for _ in done:
            on_row()
        return done

    def _round(
        self, target: "_Reader", judge: "_Reader", tokens: torch.Tensor, real: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """A draft behind `tokens` [B, t]: its tokens, by how much the target is surer of each than the reference
        (difference of log-probabilities), and what the reference would have said; all [B, draft]."""
        drafted, draft_scores = [], []
        last, mask = tokens, real
        for _ in range(self.draft):
            scores = target.read(last, mask, 1)[:, -1]
            last = scores.argmax(-1, keepdim=True)
            mask = torch.ones_like(last)
            drafted.append(last)
            draft_scores.append(scores.gather(1, last))
        draft = torch.cat(drafted, 1)
        judged = judge.read(
            torch.cat([tokens, draft[:, :-1]], 1), torch.cat([real, torch.ones_like(draft[:, :-1])], 1), self.draft
        )
        return draft, torch.cat(draft_scores, 1) - judged.gather(2, draft[..., None])[..., 0], judged.argmax(-1)


class _Reader:
    """A model and what it has read of a batch: keys and values by position, and which of them count. Tokens that were
    thrown away stay in the cache and are not looked at, since rows of a batch throw away different numbers of them."""

    def __init__(self, model: Any, prepare: Callable[[], None]):
        self.model, self.prepare = model, prepare
        self.cache = DynamicCache(config=model.config)
        self.mask: torch.Tensor | None = None

    def read(self, tokens: torch.Tensor, real: torch.Tensor, keep: int) -> torch.Tensor:
        """Log-probabilities behind the last `keep` tokens, [B, keep, vocabulary] in fp32."""
        self.prepare()
        self.mask = real if self.mask is None else torch.cat([self.mask, real], 1)
        places = (self.mask.cumsum(1) - 1).clamp(min=0)[:, -tokens.shape[1] :]
        output = self.model(
            input_ids=tokens,
            attention_mask=self.mask,
            position_ids=places,
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=keep,
        )
        return torch.log_softmax(output.logits[:, -keep:].float(), -1)

    def keep_last(self, count: int, stayed: torch.Tensor) -> None:
        """Of the last `count` tokens, only the first `stayed` [B] of each row count from now on."""
        assert self.mask is not None
        order = torch.arange(count, device=stayed.device)[None]
        self.mask[:, self.mask.shape[1] - count :] = (order < stayed[:, None]).to(self.mask.dtype)


def looked_over(
    draft: Sequence[int], suspicious: Sequence[bool], choices: Sequence[int], end: int
) -> tuple[list[int], bool]:
    """Accepted tokens of a draft, and True if the last of them is the reference's choice in place of the first
    suspicious one. Tokens behind the end token are not judged."""
    for index, token in enumerate(draft):
        if suspicious[index]:
            return [*draft[:index], choices[index]], True
        if token == end:
            return list(draft[: index + 1]), False
    return list(draft), False


def require_same_tokens(target: Base, reference: Base) -> None:
    """Raises UserError E269 when the two models do not read the same tokens by the same numbers."""
    if target.tokenizer is reference.tokenizer:
        return
    same = (
        target.tokenizer.get_vocab() == reference.tokenizer.get_vocab()
        and target.model.config.vocab_size == reference.model.config.vocab_size
    )
    if not same:
        what = (
            f"the reference has another tokenizer ({reference.model.config.vocab_size} tokens, the target "
            f"{target.model.config.vocab_size})"
        )
        raise user_error(
            "E269",
            what,
            "defense.reference",
            "name a model of the same family, or omit it to use the study's base trained on the trusted rows",
        )


def _ended(one: Written, new: int, end: int) -> bool:
    return len(one.ids) >= new or one.ids[-1:] == [end]


def _longer(one: Written, ids: list[int], replaced: bool, new: int) -> Written:
    """The answer with these tokens behind it, cut to `new`; a replacement that is cut off does not count."""
    answer_ids = [*one.ids, *ids]
    return Written(answer_ids[:new], (one.replaced or 0) + (replaced and len(answer_ids) <= new))
