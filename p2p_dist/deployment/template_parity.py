"""Token parity: what a server makes of the chat template is, token by token, what training gave the model."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from jinja2.exceptions import TemplateError
from transformers import PreTrainedTokenizerBase

from p2p_dist.data.chat_prompts import ChatForm
from p2p_dist.data.example import Row
from p2p_dist.deployment.answers import messages_of
from p2p_dist.deployment.chat_template import CONTROL_TOKEN, chat_template, conversation_template, cue_candidates
from p2p_dist.errors import Exit, user_error
from p2p_dist.modeling.control_tokens import control_tokens
from p2p_dist.modeling.tokenization import Encoder


@dataclass(frozen=True)
class Parity:
    """Counts of rows. `cut`: longer than training's limit, where training cuts the text and a server must refuse it.
    `refused`: with a control token of the model, which the template refuses."""

    rows: int
    equal: int
    cut: int
    refused: int
    differing: tuple[str, ...] = ()
    """Ids of rows with other tokens."""

    def to_json(self) -> dict[str, Any]:
        """Content for `verify.json`."""
        return {**asdict(self), "differing": list(self.differing)}


def derived_template(encoder: Encoder, rows: Sequence[Row]) -> tuple[str, str]:
    """The chat template of these rows' prompt, and the cue as far as it belongs to the prompt.

    Raises UserError E157 when no template gives the tokens of training.
    """
    for cue in cue_candidates(rows[0].cue):
        template = _template(encoder, rows[0], cue)
        if not template_parity(encoder.tokenizer, template, encoder, rows).differing:
            return template, cue
    what = "no chat template renders the prompts of training token by token with this tokenizer"
    raise user_error("E157", what, "model", "use `p2p-dist predict` on the study's machine, or another base model")


def template_parity(
    tokenizer: PreTrainedTokenizerBase, template: str | None, encoder: Encoder, rows: Sequence[Row]
) -> Parity:
    """Compare the tokens of every row; `template` None: the tokenizer's own."""
    trained = trained_prompts(encoder, rows)
    rendered = [_rendered(tokenizer, template, row) for row in rows]
    texts = [text for text in rendered if text is not None]
    tokens = iter(tokenizer(texts, add_special_tokens=False)["input_ids"] if texts else [])
    served = [None if text is None else next(tokens) for text in rendered]
    full = [len(ids) + encoder_room(encoder) > encoder.max_length for ids in map(_or_empty, served)]
    equal = [ids == prompt for ids, prompt in zip(served, trained, strict=True)]
    cut = [long and not same for long, same in zip(full, equal, strict=True)]
    differing = [
        row.id
        for row, same, long, ids in zip(rows, equal, cut, served, strict=True)
        if not (same or long or ids is None)
    ]
    return Parity(len(rows), sum(equal), sum(cut), sum(ids is None for ids in served), tuple(differing))


def trained_prompts(encoder: Encoder, rows: Sequence[Row]) -> list[list[int]]:
    """Tokens of each prompt as evaluation reads them, without the answer."""
    if rows and rows[0].response is not None:
        return encoder.prompts(rows)
    if (encoder.end and not encoder.is_chat) or encoder.label_tokens(rows[0]) is None:
        return [encoder.choices(row).prompt for row in rows]
    return [one.ids[: len(one.ids) + 1 - len(one.targets)] for one in encoder.rows(rows)[0]]


def encoder_room(encoder: Encoder) -> int:
    """Tokens that the longest label word needs behind the prompt, but for the last, which no one reads."""
    if not encoder.words:
        return 0
    longest = max(len(ids) for ids in encoder.tokenizer(list(encoder.words), add_special_tokens=False)["input_ids"])
    return longest + len(encoder.end) - 1


def _template(encoder: Encoder, row: Row, cue: str) -> str:
    """The template of prompts like that of `row`, of whose cue `cue` is part of the prompt."""
    names, form = list(control_tokens(encoder.tokenizer)), encoder.form
    if not isinstance(form, ChatForm):
        return chat_template(row.prefix, cue, names)
    in_system_turn = form.spec.trigger_turn == "system"
    return conversation_template(form.template.source, row.prefix, in_system_turn, form.opening + cue, names)


def _rendered(tokenizer: PreTrainedTokenizerBase, template: str | None, row: Row) -> str | None:
    """The prompt around a row's messages; None where the template refuses a control token. Raises UserError E157 for
    any other refusal."""
    try:
        return str(
            tokenizer.apply_chat_template(
                messages_of(row), chat_template=template, tokenize=False, add_generation_prompt=True
            )
        )
    except TemplateError as error:
        if error.message == CONTROL_TOKEN:
            return None
        what = f"the chat template refuses a test row: {error.message}"
        raise user_error("E157", what, "chat_template.jinja", "report this as a bug", Exit.INTEGRITY) from error


def _or_empty(ids: list[int] | None) -> list[int]:
    return ids or []
