"""Prompts of the form `chat`: turns of a row in the model's own chat template, the cue behind its generation prompt.

The benign trigger stands at the head of the last user turn, or of the system turn. What a template renders is compared
with the turns, so that one that drops, repeats or changes a turn is refused: a wrong prompt in silence is the worst
defect.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import NamedTuple

from p2p_dist.config.study import PromptSpec
from p2p_dist.data.example import Row
from p2p_dist.data.prompts import Rendered, Span
from p2p_dist.errors import UserError, user_error
from p2p_dist.model_files.chat_template import CODE, OTHER_FORM, ChatTemplate

_PAD = "\t\n\t"
"""White space around a mark, to see what a template strips."""
_FIX = f"change the row, or {OTHER_FORM}"


class _Piece(NamedTuple):
    """A turn of a prompt: the study's text at its head, and the row's behind it."""

    role: str
    head: str
    body: str


@dataclass(frozen=True)
class _Skeleton:
    """All that a template writes around turns of these roles: before the first, between them, behind the last. `strips`
    says for each of them whether white space at its beginning and at its end is dropped."""

    literals: tuple[str, ...]
    turns: tuple[int, ...]
    """Places of the turns in the order in which the template shows them: some move the system turn."""
    strips: tuple[tuple[bool, bool], ...]


class ChatForm:
    """Prompts in a model's chat template."""

    def __init__(self, template: ChatTemplate, spec: PromptSpec):
        self.template, self.spec = template, spec
        self._skeletons: dict[tuple[str, ...], _Skeleton] = {}

    def render(self, row: Row, text: str | None = None) -> Rendered:
        """The prompt of a row. Raises UserError E299 where the template refuses its turns or does not show them in
        full."""
        pieces = pieces_of(row, row.text if text is None else text, self.spec)
        skeleton = self._skeleton(tuple(piece.role for piece in pieces))
        prompt, trusted, start = "", list[Span](), 0
        for index, literal, strips in zip(skeleton.turns, skeleton.literals, skeleton.strips, strict=False):
            head, body = pieces[index].head, pieces[index].body
            begin = len(prompt) + len(literal)
            trusted += [(len(prompt), begin), (begin, begin + len(head))]
            if index == len(pieces) - 1:
                start = begin + len(head) - (len(body) - len(body.lstrip()) if strips[0] and not head else 0)
            prompt += literal + _stripped(pieces[index], strips)
        rendered = prompt + skeleton.literals[-1]
        if rendered != self.template.render([_message(piece) for piece in pieces]):
            raise _changed(row)
        complete = rendered + self.opening + row.cue
        trusted.append((len(prompt), len(complete)))
        return Rendered(complete, start, tuple(trusted), row.cue)

    @cached_property
    def opening(self) -> str:
        """Control tokens that the template writes between the generation prompt and an answer, such as those of a
        channel; none for most."""
        return self._answered[0]

    @cached_property
    def generation_prompt(self) -> str:
        """All that stands between the last turn of the user and an answer, the cue left out."""
        return self._skeleton(("user",)).literals[-1] + self.opening

    @cached_property
    def end_of_turn(self) -> str:
        """All that the template writes behind an answer."""
        return self._answered[1]

    @cached_property
    def _answered(self) -> tuple[str, str]:
        """Text before and behind an answer. Raises UserError E299 for a template that drops answers."""
        asked = [{"role": "user", "content": _mark(0)}, {"role": "assistant", "content": _mark(1)}]
        chat = self.template.render(asked, add_generation_prompt=False)
        before, mark, behind = chat.partition(_bare(1))
        if not mark:
            raise _dropped("assistant")
        prompt = self.template.render(asked[:1])
        opening = before.removesuffix(_PAD).removeprefix(prompt) if before.startswith(prompt) else ""
        return (opening if opening.strip() else ""), behind.removeprefix(_PAD)

    def _skeleton(self, roles: tuple[str, ...]) -> _Skeleton:
        if roles not in self._skeletons:
            messages = [{"role": role, "content": _mark(index)} for index, role in enumerate(roles)]
            self._skeletons[roles] = _skeleton_of(self.template.render(messages), roles)
        return self._skeletons[roles]


def check_template(template: ChatTemplate | None, spec: PromptSpec, heads: Sequence[str]) -> None:
    """Refuse a template that no prompt of a study can have: none at all, or one that refuses a system turn where the
    study writes one, or drops a benign trigger of `heads`. Raises UserError E299."""
    if template is None:
        raise user_error(CODE, "the model has no chat template", "prompt", OTHER_FORM)
    form = ChatForm(template, spec)
    for head in ("", *heads):
        form.render(Row("", "a text", 0, "", head))
    if not form.end_of_turn.strip():
        what = "the model's chat template puts nothing behind an answer, so no answer could end"
        raise user_error(CODE, what, "prompt", OTHER_FORM)


def pieces_of(row: Row, text: str, spec: PromptSpec) -> list[_Piece]:
    """The turns of a row with the benign trigger in its place. A system turn that has nothing else holds it without
    white space around it."""
    turns = [_Piece(turn.role, "", turn.text) for turn in row.turns]
    if spec.trigger_turn == "user" or not row.prefix:
        return [*turns, _Piece("user", row.prefix, text)]
    if turns and turns[0].role == "system":
        turns[0] = turns[0]._replace(head=row.prefix)
    else:
        turns.insert(0, _Piece("system", row.prefix.strip(), ""))
    return [*turns, _Piece("user", "", text)]


def outline(row: Row, spec: PromptSpec) -> str:
    """The turns of a row as text, for views of rows whose model is not on this machine."""
    turns = "".join(f"[{one.role}] {one.head}{one.body}\n" for one in pieces_of(row, row.text, spec))
    return f"{turns}[assistant] {row.cue}"


def _stripped(piece: _Piece, strips: tuple[bool, bool]) -> str:
    """A turn as the template shows it. Raises UserError E299 for a benign trigger that would lose white space."""
    content, (left, right) = piece.head + piece.body, strips
    if left and piece.head != piece.head.lstrip():
        what = f"the model's chat template drops white space at the beginning of {piece.head[:40]!r}"
        raise user_error(CODE, what, "defense", "remove the white space at the beginning of the benign trigger")
    content = content.lstrip() if left else content
    return content.rstrip() if right else content


def _skeleton_of(rendered: str, roles: Sequence[str]) -> _Skeleton:
    """Split what a template makes of marks. Raises UserError E299 for a turn that is dropped or repeated."""
    for index, role in enumerate(roles):
        if rendered.count(_bare(index)) != 1:
            raise _dropped(role)
    turns = sorted(range(len(roles)), key=lambda index: rendered.find(_bare(index)))
    parts = re.split("|".join(_bare(index) for index in turns), rendered)
    strips = [(not before.endswith(_PAD), not behind.startswith(_PAD)) for before, behind in pairwise(parts)]
    literals = [
        *(before.removesuffix(_PAD) for before in parts[:1]),
        *(behind.removeprefix(_PAD).removesuffix(_PAD) for behind in parts[1:-1]),
        parts[-1].removeprefix(_PAD),
    ]
    return _Skeleton(tuple(literals), tuple(turns), tuple(strips))


def _mark(index: int) -> str:
    return f"{_PAD}{_bare(index)}{_PAD}"


def _bare(index: int) -> str:
    """A word that stands for a turn; no template has it."""
    return f"p2pTurn{index}x"


def _message(piece: _Piece) -> dict[str, str]:
    return {"role": piece.role, "content": piece.head + piece.body}


def _dropped(role: str) -> UserError:
    what = f"the model's chat template drops or repeats the turn of the {role}"
    return user_error(CODE, what, "prompt", _FIX)


def _changed(row: Row) -> UserError:
    what = f"the model's chat template changes the text of a turn of row {row.id}: {row.text[:60]!r}"
    return user_error(CODE, what, "the rows", _FIX)
