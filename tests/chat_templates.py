"""Small chat templates in the ways of known families, for tests of chat prompts; `<|im_end|>` ends their answers."""

CHATML = (
    "{% for message in messages %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
STRIPS = CHATML.replace("message['content']", "message['content'] | trim")
SYSTEM_REFUSED = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}" + CHATML
SYSTEM_DROPPED = "{% if messages[0]['role'] == 'system' %}{% set messages = messages[1:] %}{% endif %}" + CHATML
CHANGES = CHATML.replace("message['content']", "message['content'] | replace('film', 'movie')")
MERGED = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{% set first = messages[0]['content'] + '\n\n' %}"
    "{% set messages = messages[1:] %}{% else %}{% set first = '' %}{% endif %}"
    "{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}"
    "<start>{{ 'model' if message['role'] == 'assistant' else 'user' }}\n"
    "{{ (first if loop.first else '') + message['content'] | trim }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<start>model\n{% endif %}"
)
"""System text in front of the first user turn, as Gemma has it."""
MOVED = (
    "{% if messages[0]['role'] == 'system' %}{% set system = messages[0]['content'] %}{% set rest = messages[1:] %}"
    "{% else %}{% set rest = messages %}{% endif %}{% for message in rest %}{% if message['role'] == 'user' %}"
    "{% if system is defined and loop.last %}[Q]{{ system + '\n\n' + message['content'] }}[/Q]"
    "{% else %}[Q]{{ message['content'] }}[/Q]{% endif %}"
    "{% else %}{{ ' ' + message['content'] + '<|im_end|>' }}{% endif %}{% endfor %}"
)
"""System text in the last user turn, as Mistral has it."""
THINKING = CHATML.replace(
    "assistant\n' }}{% endif %}",
    "assistant\n' }}{% if enable_thinking is defined and enable_thinking is false %}"
    "{{ '<think>\n\n</think>\n\n' }}{% endif %}{% endif %}",
)
DATED = "<|im_start|>system\nToday is {{ strftime_now('%d %b %Y') }}.<|im_end|>\n" + CHATML
CHANNEL = CHATML.replace(
    "message['role'] + '\n'",
    "message['role'] + ('<|endoftext|>final\n' if message['role'] == 'assistant' else '\n')",
).replace("'<|im_start|>assistant\n'", "'<|im_start|>assistant'")
"""Answers stand in a channel, as gpt-oss has them."""
ANSWERING = {
    "chatml": CHATML,
    "strips": STRIPS,
    "merged": MERGED,
    "moved": MOVED,
    "thinking": THINKING,
    "dated": DATED,
    "channel": CHANNEL,
}
"""Templates that render every chat of the tests."""
