"""Chat templates of a study's models when it is planned: refused where a prompt could be wrong, and shown."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from p2p_dist.config.expand import kept
from p2p_dist.config.labels import plugin_labels
from p2p_dist.config.model import ModelRef
from p2p_dist.config.study import PromptSpec, StudySpec
from p2p_dist.data import chats
from p2p_dist.data.chat_prompts import ChatForm, check_template, outline
from p2p_dist.data.defense import DataDefense
from p2p_dist.data.example import RawRow, Row, content_id
from p2p_dist.data.prompts import prompt
from p2p_dist.errors import Problem, UserError, user_error
from p2p_dist.model_files.chat_template import CODE, OTHER_FORM, ChatTemplate, read_template
from p2p_dist.model_files.folder import unpacked_gguf
from p2p_dist.scheduling.model_facts import folder_of

_TEXT = "TEXT"
"""Text of the row in prompts that a plan shows."""


def with_templates(spec: StudySpec) -> StudySpec:
    """The study with the digest of the chat template in the identity of every model that is a folder: no other part of
    the identity has it, and another template is another prompt."""
    if not spec.prompt.is_chat:
        return spec
    return spec.model_copy(update={"model": tuple(map(_with_digest, spec.model))})


def check_chats(spec: StudySpec) -> None:
    """Refuse models whose chat templates a study's prompts cannot have. Raises UserError E299, and E107 for a start
    token beside a template, each once."""
    if not spec.prompt.is_chat:
        return
    if any(task.reads_images for (task,) in kept(spec, "task")):
        what = "rows with images have no chat prompt"
        raise user_error(CODE, what, "prompt", "set prompt: plain, or task.images=false")
    heads = list(dict.fromkeys(_deployed(spec, cue="").values()))
    problems: list[Problem] = []
    for (model,) in kept(spec, "model"):
        try:
            _check(model, spec.prompt, [row.prefix for row in heads])
        except UserError as error:
            problems += [replace(one, what=f"{model.name}: {one.what}") for one in error.problems]
    if problems:
        raise UserError(*dict.fromkeys(problems))


def check_turns(spec: StudySpec, rows: Iterable[RawRow]) -> None:
    """Render one row of every order of roles in the template of every model that is here. Raises UserError E299."""
    samples = {tuple(turn.role for turn in row.turns): row for row in rows}
    for (model,) in kept(spec, "model") if spec.prompt.is_chat else ():
        template = template_of(model)
        form = ChatForm(template, spec.prompt) if template else None
        for row in samples.values() if form else ():
            assert form is not None
            form.render(Row(content_id(row), row.text, 0, "", turns=row.turns))


def shown_prompts(spec: StudySpec) -> list[dict[str, str]]:
    """The prompt around a text by model and defense, for plans; none for the plain form."""
    if not spec.prompt.is_chat:
        return []
    cue = chats.task_in_form(spec.task[0], spec.prompt).answer_cue
    return [
        {"model": model.name, "defense": name, "prompt": view_of(model, spec.prompt)(row)}
        for model in spec.model
        for name, row in _deployed(spec, cue).items()
    ]


def view_of(model: ModelRef, spec: PromptSpec) -> Callable[[Row], str]:
    """Function that shows the prompt of a row: in the model's template, or as an outline where it is not here."""
    if not spec.is_chat:
        return prompt
    template = template_of(model)
    if template is None:
        return lambda row: outline(row, spec)
    form = ChatForm(template, spec)
    return lambda row: form.render(row).text


def template_of(model: ModelRef) -> ChatTemplate | None:
    """The template of a model whose files are here; None where they are not, or have none."""
    folder = _files_of(model)
    return read_template(folder) if folder else None


def _check(model: ModelRef, spec: PromptSpec, heads: Sequence[str]) -> None:
    if model.identity["source"] == "random":
        raise user_error(CODE, "a model with random weights has no chat template", "model", OTHER_FORM)
    if model.identity.get("add_bos_token"):
        what = "add_bos_token: a chat template writes the start token itself"
        raise user_error("E107", what, "model", "remove add_bos_token")
    if folder := _files_of(model):
        check_template(read_template(folder), spec, heads)


def _deployed(spec: StudySpec, cue: str) -> dict[str, Row]:
    """A row as each defense prompts it, by the name of the defense; equal ones once."""
    plain = Row("", _TEXT, 0, cue)
    rows = {
        name: defense.defend_prompt(plain) if isinstance(defense, DataDefense) else plain
        for name, defense in zip(plugin_labels(spec.defense), spec.defense, strict=True)
    }
    first: dict[Row, str] = {}
    for name, row in rows.items():
        first.setdefault(row, name)
    return {name: row for row, name in first.items()}


def _with_digest(model: ModelRef) -> ModelRef:
    template = template_of(model) if model.identity["source"] == "folder" else None
    return replace(model, identity={**model.identity, "chat_template": template.digest}) if template else model


def _files_of(model: ModelRef) -> Path | None:
    """Folder with the tokenizer of a model, if it is here: its own, a snapshot of the hub, or an unpacked GGUF file."""
    if model.identity["source"] not in ("gguf", "embedded"):
        return folder_of(model)
    folder = unpacked_gguf(str(model.identity["sha256"]))
    return folder if (folder / "config.json").is_file() else None
