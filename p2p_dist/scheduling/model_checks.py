"""Checks of a study's models when it is planned: what a worker would refuse is refused before anything is spent."""

from collections.abc import Sequence

from p2p_dist import registry
from p2p_dist.config.families import position_limit, require_text, row_limit
from p2p_dist.config.model import ModelRef
from p2p_dist.config.study import TrainSpec
from p2p_dist.data.task import Task
from p2p_dist.errors import Problem, UserError, user_error
from p2p_dist.model_files.check import check_folder
from p2p_dist.model_files.folder import ModelFolder
from p2p_dist.model_files.known_types import WITH_IMAGES
from p2p_dist.model_files.targets import check_targets
from p2p_dist.scheduling.model_facts import folder_of, reads_images


def check_models(trained: Sequence[tuple[ModelRef, TrainSpec, int]], others: Sequence[ModelRef]) -> None:
    """Check the files of every model that is on this machine: those that are trained, each with a training and the
    longest answer that it writes then (0 tokens where it writes none), and others that only score or generate. Raises
    UserError with the first problem of each model."""
    problems: list[Problem] = []
    for model in _once([*(model for model, _, _ in trained), *others]):
        place = folder_of(model)
        try:
            if place is not None:
                folder = check_folder(place, model.identity.get("allow_missing", ()))
                longest_first = sorted(trained, key=lambda one: one[1].max_length + one[2], reverse=True)
                for _, training, new_tokens in (one for one in longest_first if one[0] == model):
                    _check_length(folder, training.max_length, new_tokens)
                    if training.lora.target_modules != "all-linear":
                        check_targets(folder, training.lora.target_modules)
                    if new_tokens:
                        require_text(folder.model_type)
        except UserError as error:
            problems += error.problems
    if problems:
        raise UserError(*dict.fromkeys(problems))


def check_images(read: Sequence[tuple[Task, ModelRef]]) -> None:
    """Raises UserError E227 for rows with images of a model that cannot read them, or of which that is not known."""
    asked = [(registry.name_of(task), model) for task, model in read if task.reads_images]
    tasks = ", ".join(dict.fromkeys(task for task, _ in asked))
    models = _once([model for _, model in asked])
    instead = "set task.images=false to use the texts alone; `p2p-dist data` builds the rows either way"
    if blind := [model.name for model in models if reads_images(model) is False]:
        what = f"the rows of {tasks} carry images, which {', '.join(blind)} cannot read"
        fix = f"choose a model of {', '.join(sorted(WITH_IMAGES))}, or {instead}"
        raise user_error("E227", what, "task", fix)
    if unknown := [model.name for model in models if reads_images(model) is None]:
        what = (
            f"the rows of {tasks} carry images, and whether {', '.join(unknown)} reads them is not known: its "
            "config.json is not on this machine"
        )
        raise user_error("E227", what, "task", f"download the model into the hub's cache first, or {instead}")


def check_towers(trained: Sequence[tuple[ModelRef, TrainSpec]]) -> None:
    """Raises UserError E297 for full-parameter fine-tuning of a model that reads images: its tower is frozen."""
    models = _once([model for model, training in trained if training.is_full])
    if towers := [model.name for model in models if reads_images(model)]:
        what = f"{', '.join(towers)} has a vision tower, which is frozen, and all weights are to be trained"
        fix = f"set train.method=lora, or exclude {{model: {towers[0]}, training: method=full}} where it is a list"
        raise user_error("E297", what, "train.method", fix)


def _once(models: Sequence[ModelRef]) -> list[ModelRef]:
    """The models, equal ones once."""
    return [model for index, model in enumerate(models) if model not in models[:index]]


def _check_length(folder: ModelFolder, max_length: int, new_tokens: int) -> None:
    """Raises UserError E294 for rows, or prompts with the answers that are written, longer than the model computes
    rightly."""
    lengths = [
        (max_length, "", row_limit(folder.config)),
        (max_length + new_tokens, f" with {new_tokens} of the answer", position_limit(folder.config)),
    ]
    for length, answer, limit in lengths:
        if limit is not None and length > limit.tokens:
            what = (
                f"rows of up to {max_length} tokens{answer} are longer than {limit.tokens}: {folder.model_type} "
                f"{limit.reason}"
            )
            most = limit.tokens - (length - max_length)
            fix = (
                f"set train.max_length={most} or less, or choose another model" if most > 0 else "choose another model"
            )
            raise user_error("E294", what, "train.max_length", fix)
