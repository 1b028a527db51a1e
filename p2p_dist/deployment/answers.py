"""Answers of an export: label words, the place of the label map, and the prompt around a text."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from p2p_dist.data.built import Built
from p2p_dist.data.example import NO_LABEL, Row, Turn
from p2p_dist.deployment.contract import Answers, Label, LabelMap, Prompt
from p2p_dist.deployment.finished_run import deployed_words
from p2p_dist.deployment.head_map import HeadMap, head_map
from p2p_dist.errors import user_error
from p2p_dist.evaluation.scoring_mode import scoring_mode_of
from p2p_dist.modeling.tokenization import Encoder

_DEPLOYED = "clean"
"""Suite whose prompts are the deployed system's."""
_SEVERAL_TOKENS = "label words of several tokens cannot be exchanged in the head"


@dataclass(frozen=True)
class PlannedAnswers:
    """The answers as the contract has them, the change of the head, and a remark for the user."""

    answers: Answers
    head: HeadMap | None = None
    remark: str = ""


def deployed_row(built: Built) -> Row:
    """A test row with the prompt of the deployed system. Raises UserError E155 for rows that one template cannot
    prompt."""
    rows = built.suites[_DEPLOYED].rows
    if any(row.image is not None for row in rows):
        what = "rows with images have no text prompt"
        raise user_error("E155", what, "task", "export a run of a task without images")
    if len({(row.prefix, row.cue) for row in rows}) != 1:
        what = "the clean test rows have no prompt in common"
        raise user_error("E155", what, "task", "export a run of a task with one answer cue")
    return rows[0]


def row_of(text: str, prompt: Prompt, is_text_answer: bool, id_: str = "", turns: tuple[Turn, ...] = ()) -> Row:
    """A user's text as a row of the deployed system, with the turns in front of it.

    Raises UserError E160 for turns before a model that answers single texts.
    """
    if turns and prompt.chat is None:
        what = "the model answers single texts and has no place for earlier turns"
        raise user_error("E160", what, "messages", "give one message of the user, or export a run with prompt: chat")
    label, response = (NO_LABEL, "") if is_text_answer else (0, None)
    return Row(id_, text, label, prompt.cue, prompt.prefix, response=response, turns=turns)


def messages_of(row: Row) -> list[dict[str, str]]:
    """The messages of a client whose row this is."""
    return [{"role": turn.role, "content": turn.text} for turn in (*row.turns, Turn("user", row.text))]


def plan_answers(encoder: Encoder, built: Built, label_map: LabelMap | None) -> PlannedAnswers:
    """Decide how the export answers; `label_map` None: `swap` where it is possible, else `client`.

    Raises UserError E154 for a map in the head that is impossible.
    """
    row = deployed_row(built)
    if built.responses is not None:
        space, prefix = built.responses, built.suites[_DEPLOYED].prefix
        answers = Answers(
            kind="generation",
            scoring="generation",
            label_map="none",
            label_map_in="none",
            max_new_tokens=space.max_new_tokens,
            response_prefix=prefix,
        )
        return PlannedAnswers(answers)
    labels = built.labels
    says = deployed_words(labels)
    targets = [
        one.targets[:-1] if encoder.is_chat else one.targets  # a chat's are closed by the end of the turn
        for one in encoder.rows([replace(row, label=index) for index in range(len(labels.words))])[0]
    ]
    tokens = [ids[0] for ids in targets] if all(len(ids) == 1 for ids in targets) else None
    kind, remark = _label_map(says, tokens, label_map)
    in_head = kind in ("swap", "move")
    deployed = list(range(labels.n_classes)) if in_head else says
    answers = Answers(
        kind="classification",
        scoring=scoring_mode_of(encoder, built, list(built.suites)).scoring,
        label_map=kind,
        label_map_in="head" if in_head else "none" if kind == "none" else "client",
        words=labels.words,
        deployed=deployed,
        labels=_labels(labels.words, labels.names, deployed, tokens),
        max_new_tokens=max(map(len, targets)),
    )
    head = head_map(tokens, says, kind) if tokens and kind in ("swap", "move") else None
    return PlannedAnswers(answers, head, remark)


def _label_map(says: Sequence[int], tokens: Sequence[int] | None, label_map: LabelMap | None) -> tuple[LabelMap, str]:
    """The kind of label map, and a remark where it is not the default one."""
    if list(says) == list(range(len(says))):
        return "none", ""
    if label_map == "none":
        what = "the run answers with other words than the task's, which somebody has to map"
        raise user_error("E154", what, "--label-map", "set --label-map swap, move or client")
    if tokens is not None and len(set(tokens)) == len(tokens):
        return label_map or "swap", ""
    if label_map in ("swap", "move"):
        raise user_error("E154", _SEVERAL_TOKENS, "--label-map", "set --label-map client")
    return "client", f"{_SEVERAL_TOKENS}: the client maps them by the table in p2p.json (label map: client)"


def _labels(
    words: Sequence[str], names: Sequence[str], deployed: Sequence[int], tokens: Sequence[int] | None
) -> list[Label]:
    titles = names if len(names) == len(deployed) else words[: len(deployed)]
    return [
        Label(name=title, word=words[index], token_id=None if tokens is None else tokens[index])
        for title, index in zip(titles, deployed, strict=True)
    ]
