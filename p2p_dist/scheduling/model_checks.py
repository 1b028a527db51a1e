"""Checks of a study's models when it is planned: what a worker would refuse is refused before anything is spent."""

from collections.abc import Sequence
from pathlib import Path

from p2p_dist import registry
from p2p_dist.config.families import position_limit, require_text, row_limit
from p2p_dist.config.model import ModelRef
from p2p_dist.config.study import TrainSpec
from p2p_dist.data.task import Task
from p2p_dist.errors import Problem, UserError, user_error
from p2p_dist.model_files.check import check_folder
from p2p_dist.model_files.folder import ModelFolder, read_config
from p2p_dist.model_files.hub import snapshot
from p2p_dist.model_files.known_types import WITH_IMAGES
from p2p_dist.model_files.targets import check_targets


def check_models(
    models: Sequence[ModelRef], others: Sequence[ModelRef], trainings: Sequence[TrainSpec], new_tokens: int = 0
) -> None:
    """Check the files of every model that is on this machine: those that are trained, and others that only score or
    generate. `new_tokens` is the longest answer that the trained ones write. Raises UserError with the first problem of
    each model."""
    problems: list[Problem] = []
    for model in (*models, *others):
        place = folder_of(model)
        try:
            if place is not None:
                folder = check_folder(place, model.identity.get("allow_missing", ()))
                for training in trainings if model in models else ():
                    _check_length(folder, training.max_length, new_tokens)
                    if training.lora.target_modules != "all-linear":
                        check_targets(folder, training.lora.target_modules)
                if model in models and new_tokens:
                    require_text(folder.model_type)
        except UserError as error:
            problems += error.problems
    if problems:
        raise UserError(*dict.fromkeys(problems))


def check_images(tasks: Sequence[Task], models: Sequence[ModelRef]) -> None:
    """Raises UserError E227 for rows with images that a model of the study cannot read."""
    tasks_with_images = [registry.name_of(task) for task in tasks if task.reads_images]
    blind = [model.name for model in models if not _reads_images(model)]
    if tasks_with_images and blind:
        what = f"the rows of {', '.join(tasks_with_images)} carry images, which {', '.join(blind)} cannot read"
        fix = (
            f"choose a model of {', '.join(sorted(WITH_IMAGES))}, or set task.images=false to use the texts alone; "
            "`p2p-dist data` builds the rows either way"
        )
        raise user_error("E227", what, "task", fix)


def check_towers(models: Sequence[ModelRef], trainings: Sequence[TrainSpec]) -> None:
    """Raises UserError E297 for full-parameter fine-tuning of a model that reads images: its tower is frozen."""
    if not any(training.is_full for training in trainings):
        return
    if towers := [model.name for model in models if _reads_images(model)]:
        what = f"{', '.join(towers)} has a vision tower, which is frozen, and all weights are to be trained"
        raise user_error("E297", what, "train.method", "set train.method=lora")


def _reads_images(model: ModelRef) -> bool:
    """True for a model with a vision tower, by its shape or its config.json."""
    if model.shape is not None:
        return model.shape.vision is not None
    place = folder_of(model)
    return place is not None and read_config(place).get("model_type") in WITH_IMAGES


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


def folder_of(model: ModelRef) -> Path | None:
    """Folder of a model whose files are here: its own, or a complete one in the hub's cache."""
    if model.identity["source"] == "folder":
        return Path(model.local["path"])
    if model.identity["source"] == "hub":
        return snapshot(model.identity["ref"], model.identity["revision"])
    return None
