"""Prompt form of a run: plain, or the chat template of the run's tokenizer."""

from transformers import PreTrainedTokenizerBase

from p2p_dist.config.study import PromptSpec
from p2p_dist.data.chat_prompts import ChatForm, check_template
from p2p_dist.data.prompts import PLAIN, PromptForm
from p2p_dist.model_files.chat_template import ChatTemplate


def form_of(prompt: PromptSpec, tokenizer: PreTrainedTokenizerBase) -> PromptForm:
    """The form of a study's prompts with this tokenizer. Raises UserError E299 for a template that no chat can have."""
    if not prompt.is_chat:
        return PLAIN
    template = template_of(tokenizer)
    check_template(template, prompt, ())
    assert template is not None, "a missing template is refused"
    return ChatForm(template, prompt)


def template_of(tokenizer: PreTrainedTokenizerBase) -> ChatTemplate | None:
    """The chat template of a tokenizer with its settings fixed; None where it has none."""
    return ChatTemplate.of(tokenizer.chat_template, special_tokens_of(tokenizer))


def special_tokens_of(tokenizer: PreTrainedTokenizerBase) -> dict[str, str]:
    """The tokens that a template may write by name."""
    return {name: token for name, token in tokenizer.special_tokens_map.items() if isinstance(token, str)}
