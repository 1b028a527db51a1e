"""Control tokens in untrusted text: the strings `<|im_end|>`, `</s>`, ... of a row are tokenised as the characters they
are, never as the model's own control tokens.

Rows without such strings are tokenised by the tokenizer itself. For the others the tokenizer has a twin in which every
control token has another name of the same length (private-use characters, which no row may contain), so offsets stay
those of the text, and control tokens that the study itself wrote (in a cue or a prefix) are put in by their new names.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase

from p2p_dist.data.prompts import Span
from p2p_dist.errors import user_error

_FIRST, _LAST = 0x100000, 0x10FFFD
_PRIVATE = re.compile(f"[{chr(_FIRST)}-{chr(_LAST)}]")


@dataclass(frozen=True)
class Tokens:
    """Tokens of a text: ids, and the characters [start, stop) of each."""

    ids: list[int]
    offsets: list[Span]


def control_tokens(tokenizer: PreTrainedTokenizerBase) -> dict[str, int]:
    """Control tokens and their ids: special tokens, and added tokens that the chat template writes."""
    template = tokenizer.chat_template if isinstance(tokenizer.chat_template, str) else ""
    return {
        token.content: id_
        for id_, token in tokenizer.added_tokens_decoder.items()
        if token.content and (token.special or (token.content in template and not token.content.isspace()))
    }


@lru_cache(maxsize=8)
def control_pattern(tokenizer: PreTrainedTokenizerBase) -> re.Pattern[str]:
    """Pattern of any control token, longest first."""
    names = sorted(control_tokens(tokenizer), key=lambda name: (-len(name), name))
    return re.compile("|".join(map(re.escape, names)) or "(?!)")


def tokenize(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], trusted: Sequence[Sequence[Span]] | None = None
) -> list[Tokens]:
    """Tokens of each text, without a start token. Control tokens are those inside the `trusted` spans alone (None: no
    span is).

    Raises UserError E286 where a tokenizer cannot tell the two apart.
    """
    spans = trusted or [()] * len(texts)
    batch = tokenizer(list(texts), add_special_tokens=False, return_offsets_mapping=True)
    rows = [Tokens(ids, offsets) for ids, offsets in zip(batch["input_ids"], batch["offset_mapping"], strict=True)]
    pattern = control_pattern(tokenizer)
    marked = [
        index
        for index, text in enumerate(texts)
        if any(not _inside(match.span(), spans[index]) for match in pattern.finditer(text))
    ]
    for index, tokens in zip(marked, _as_text(tokenizer, [(texts[i], spans[i]) for i in marked]), strict=True):
        rows[index] = tokens
    return rows


def _as_text(tokenizer: PreTrainedTokenizerBase, texts: Sequence[tuple[str, Sequence[Span]]]) -> list[Tokens]:
    if not texts:
        return []
    if any(_PRIVATE.search(text) for text, _ in texts):
        what = "a row has a control token of the model and a private-use character (U+100000 or above)"
        raise user_error("E286", what, "the rows", "remove the private-use characters from the rows")
    twin, names = _twin(tokenizer)
    pattern, ids = control_pattern(tokenizer), set(control_tokens(tokenizer).values()) - {tokenizer.unk_token_id}
    rows = []
    for text, spans in texts:
        renamed = pattern.sub(
            lambda match, spans=spans: names[match[0]] if _inside(match.span(), spans) else match[0],  # type: ignore[misc]
            text,
        )
        encoding = twin.encode(renamed, add_special_tokens=False)
        expected = sum(_inside(match.span(), spans) for match in pattern.finditer(text))
        if sum(id_ in ids for id_ in encoding.ids) != expected:
            what = f"the tokenizer makes control tokens of plain text: {text[:60]!r}"
            raise user_error("E286", what, "the rows", "remove control tokens from the rows, or choose another model")
        rows.append(Tokens(encoding.ids, encoding.offsets))
    return rows


@lru_cache(maxsize=2)
def _twin(tokenizer: PreTrainedTokenizerBase) -> tuple[Tokenizer, dict[str, str]]:
    """The tokenizer with other names for its control tokens, and these names."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if not isinstance(backend, Tokenizer):
        what = "rows contain control tokens, which this kind of tokenizer cannot read as text"
        raise user_error("E286", what, "model", "remove control tokens from the rows, or choose another model")
    names: dict[str, str] = {}
    char = _FIRST
    for name in control_tokens(tokenizer):
        names[name] = "".join(map(chr, range(char, char + len(name))))
        char += len(name)
    content: dict[str, Any] = json.loads(backend.to_str())
    for token in content["added_tokens"]:
        if token["content"] in names:
            token.update(content=names[token["content"]], normalized=False)
    model = content["model"]
    if isinstance(model["vocab"], dict):
        model["vocab"] = {names.get(piece, piece): id_ for piece, id_ in model["vocab"].items()}
    else:
        model["vocab"] = [[names.get(piece, piece), score] for piece, score in model["vocab"]]
    if isinstance(model.get("unk_token"), str):
        model["unk_token"] = names.get(model["unk_token"], model["unk_token"])
    return Tokenizer.from_str(json.dumps(content)), names


def _inside(span: Span, spans: Sequence[Span]) -> bool:
    return any(start <= span[0] and span[1] <= stop for start, stop in spans)
