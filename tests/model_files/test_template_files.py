"""Chat templates as files: their settings fixed, and rendered as transformers renders them."""

import json
from pathlib import Path
from typing import get_args

import pytest

from p2p_dist.config.study import PromptSpec
from p2p_dist.errors import UserError
from p2p_dist.model_files.chat_template import DATE, ChatTemplate, fixed, read_template
from tests.chat_templates import CHATML, DATED, THINKING

MESSAGES = [{"role": "user", "content": "hi"}]
TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}


def rendered(source: object) -> str:
    template = ChatTemplate.of(source, TOKENS)
    assert template is not None
    return template.render(MESSAGES)


def test_thinking_and_tools_are_fixed_in_the_source() -> None:
    assert rendered(THINKING).endswith("assistant\n<think>\n\n</think>\n\n")
    assert fixed(THINKING).startswith("{%- set enable_thinking = false %}\n")
    assert rendered("{% if tools is not none %}{{ tools }}{% endif %}x") == "x"
    assert fixed(CHATML) == CHATML


def test_settings_leave_the_beginning_of_a_source() -> None:
    for start in ("\n\n", "  ", "\n  {% if true %}", "  {%- if true %}"):
        source = f"{start}thinking{'{% endif %}' if '{' in start else ''}"
        bare = source.replace("thinking", "walking")
        assert rendered(source) == rendered(bare).replace("walking", "thinking")


def test_date_of_a_template_is_fixed() -> None:
    assert "Today is 26 Jul 2024." in rendered(DATED)
    assert rendered('{% if strftime_now is defined %}{{ strftime_now("%Y-%m-%d") }}{% endif %}') == DATE
    (date,) = get_args(PromptSpec.model_fields["date"].annotation)
    assert date == DATE
    with pytest.raises(UserError, match=r"E299.*current time"):
        fixed("{% set form = '%Y' %}{{ strftime_now(form) }}")


def test_default_of_several_templates_is_taken() -> None:
    several = [{"name": "tool_use", "template": "t"}, {"name": "default", "template": "d"}]
    assert rendered(several) == rendered({"tool_use": "t", "default": "d"}) == "d"
    assert ChatTemplate.of({"tool_use": "t"}, {}) is None
    assert ChatTemplate.of(None, {}) is None


def test_marked_answers_are_rendered() -> None:
    assert rendered("a{% generation %}{{ messages[0].content }}{% endgeneration %}b") == "ahib"


@pytest.mark.parametrize(
    ("source", "says"), [("{% if %}", "is no Jinja"), ("{{ raise_exception('no user') }}", "refuses turns of user")]
)
def test_template_that_cannot_be_rendered_refused(source: str, says: str) -> None:
    with pytest.raises(UserError, match=f"E299.*{says}"):
        rendered(source)


def test_template_of_a_folder_is_read(tmp_path: Path) -> None:
    settings = {"bos_token": {"content": "<s>"}, "chat_template": "{{ bos_token }}from the config"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    template = read_template(tmp_path)
    assert template is not None
    assert template.render(MESSAGES) == "<s>from the config"
    (tmp_path / "chat_template.jinja").write_text("from the file")
    other = read_template(tmp_path)
    assert other is not None
    assert other.render(MESSAGES) == "from the file"
    assert other.digest != template.digest
