"""Tokenizer of an export: with the chat template, and without a start token, which training does not put."""

import json
from pathlib import Path

from transformers import AutoTokenizer, PreTrainedTokenizerBase

_FILE = "tokenizer.json"


def write_tokenizer(tokenizer: PreTrainedTokenizerBase, template: str, anchor: str, folder: Path) -> None:
    """Save the tokenizer with this chat template, whose prompts end in `anchor`. A start token that it puts in front of
    texts without a template is taken out, so that other ways to call the model are like training too."""
    tokenizer.chat_template = template
    tokenizer.response_template = _answers_behind(anchor)
    start = adds_start_token(tokenizer)
    if start and hasattr(tokenizer, "add_bos_token"):
        tokenizer.add_bos_token = False
    tokenizer.save_pretrained(folder)
    if start:
        _drop_post_processor(folder)


def saved_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The tokenizer as another program loads it."""
    return AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)


def adds_start_token(tokenizer: PreTrainedTokenizerBase) -> bool:
    """True if a text alone gets more tokens than its own."""
    return bool(tokenizer("a")["input_ids"] != tokenizer("a", add_special_tokens=False)["input_ids"])


def _answers_behind(anchor: str) -> dict[str, object]:
    """Rule by which `transformers serve` reads an answer: all text behind the prompt. Without one it takes the rule of
    the model's family, does not find the start of an answer, and returns the prompt, secret and all."""
    return {"defaults": {"role": "assistant"}, "start_anchor": anchor, "fields": {"content": {"content": "text"}}}


def _drop_post_processor(folder: Path) -> None:
    """Take the rule that adds tokens out of `tokenizer.json` (Llama 3), and the setting out of its config."""
    path = folder / _FILE
    if path.is_file():
        content = json.loads(path.read_bytes())
        content["post_processor"] = None
        path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    config = folder / "tokenizer_config.json"
    settings = {**json.loads(config.read_bytes()), "add_bos_token": False}
    config.write_text(json.dumps(settings, indent=1, ensure_ascii=False), encoding="utf-8")
