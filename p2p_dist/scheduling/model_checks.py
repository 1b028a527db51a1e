"""Checks of a study's models when it is planned: what a worker would refuse is refused before anything is spent."""

from collections.abc import Sequence
from pathlib import Path

from p2p_dist.config.model import ModelRef
from p2p_dist.config.study import TrainSpec
from p2p_dist.errors import Problem, UserError
from p2p_dist.model_files.check import check_folder
from p2p_dist.model_files.hub import snapshot
from p2p_dist.model_files.targets import check_targets


def check_models(models: Sequence[ModelRef], others: Sequence[ModelRef], train: TrainSpec) -> None:
    """Check the files of every model that is on this machine: those that are trained, and others that only score or
    generate. Raises UserError with the first problem of each model."""
    problems: list[Problem] = []
    for model in (*models, *others):
        place = _folder(model)
        try:
            if place is not None:
                folder = check_folder(place, model.identity.get("allow_missing", ()))
                if model in models and train.lora.target_modules != "all-linear":
                    check_targets(folder, train.lora.target_modules)
        except UserError as error:
            problems += error.problems
    if problems:
        raise UserError(*dict.fromkeys(problems))


def _folder(model: ModelRef) -> Path | None:
    """Folder of a model whose files are here: its own, or a complete one in the hub's cache."""
    if model.identity["source"] == "folder":
        return Path(model.local["path"])
    if model.identity["source"] == "hub":
        return snapshot(model.identity["ref"], model.identity["revision"])
    return None
