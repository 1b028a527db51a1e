"""Text of an exported model as it is written, and continuations of raw prompts."""

from collections.abc import Callable
from typing import Any

import torch
from transformers import GenerationConfig
from transformers.generation.streamers import BaseStreamer

from p2p_dist.config.families import require_text
from p2p_dist.deployment.answers import row_of
from p2p_dist.deployment.loaded import Deployed
from p2p_dist.deployment.prediction_files import Input
from p2p_dist.evaluation.generation import GREEDY, plain_attention
from p2p_dist.modeling.base import Base
from p2p_dist.modeling.lengths import before_forward, require_positions

_INCOMPLETE = "\ufffd"
"""Character in place of bytes whose character is not complete yet."""


class _Pieces(BaseStreamer):
    """Hands on the text of new tokens as soon as its characters are complete. White space at either end is left out,
    as in answers that are not streamed."""

    def __init__(self, tokenizer: Any, on_piece: Callable[[str], None]):
        self.tokenizer, self.on_piece = tokenizer, on_piece
        self.ids: list[int] = []
        self.sent = 0
        self.is_prompt = True

    def put(self, value: torch.Tensor) -> None:
        """Take the prompt first, then one token at a time."""
        if self.is_prompt:
            self.is_prompt = False
            return
        self.ids += value.flatten().tolist()
        text = self.tokenizer.decode(self.ids, skip_special_tokens=True).strip()
        if not text.endswith(_INCOMPLETE):
            self._send(text)

    def end(self) -> None:
        """Send the rest."""
        self._send(self.tokenizer.decode(self.ids, skip_special_tokens=True).strip())

    def _send(self, text: str) -> None:
        if len(text) > self.sent:
            self.on_piece(text[self.sent :])
            self.sent = len(text)


def write_answer(deployed: Deployed, asked: Input, on_piece: Callable[[str], None]) -> bool:
    """Answer one text greedily, piece by piece. Returns True if the answer ended by itself. Raises UserError E280, E293
    or E294 as `generate_suite` does."""
    answers = deployed.contract.answers
    [prompt] = deployed.encoder.prompts([row_of(asked.text, deployed.contract.prompt, True, turns=asked.turns)])
    pieces = _Pieces(deployed.base.tokenizer, on_piece)
    end = deployed.encoder.end_token
    _generate(deployed.base, prompt, answers.max_new_tokens, end, pieces)
    return end in pieces.ids


def complete_raw(deployed: Deployed, prompt: str, new: int) -> tuple[str, bool]:
    """Continue a text as it stands, without the deployed prompt, greedily: the continuation, and True if it ended by
    itself."""
    base, end = deployed.base, deployed.encoder.end_token
    require_text(base.model.config.model_type)
    ids = base.tokenizer(prompt)["input_ids"]
    require_positions(base.model, len(ids) + new)
    [written] = GREEDY.write(base, [ids], new, end)
    return str(base.tokenizer.decode(written.ids, skip_special_tokens=True)), end in written.ids


@torch.no_grad()
def _generate(base: Base, prompt: list[int], new: int, end: int, pieces: _Pieces) -> None:
    require_text(base.model.config.model_type)
    require_positions(base.model, len(prompt) + new)
    ids = torch.tensor([prompt], device=base.device)
    greedy = GenerationConfig(max_new_tokens=new, do_sample=False, use_cache=True, eos_token_id=end, pad_token_id=end)
    with plain_attention(base.model):
        before_forward(base.model)
        base.model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=greedy, streamer=pieces)
