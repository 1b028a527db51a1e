"""One run folder holds one study: a change of its settings is said, and asked for where results would leave the
report."""

import time
from typing import Any

from p2p_dist.config import yaml_strict
from p2p_dist.errors import Problem, UserError, user_error
from p2p_dist.planning.study_changes import StudyChanges, compare
from p2p_dist.results import lease, resolved
from p2p_dist.results.rundir import RunDir
from p2p_dist.scheduling.study import Study

STARTING_SECONDS = 60.0
"""Longest time from writing a study down to owning its first job."""


def changes_of(study: Study) -> StudyChanges | None:
    """Changes against the study that its run folder holds, or None for a folder without one. Raises UserError E408
    for a folder whose study cannot be read."""
    folder = study.folder
    if not folder.resolved.is_file():
        return None
    new = {"runs": [run.to_json() for run in study.expansion.runs]}
    new["stages"] = [stage.to_json() for stage in study.expansion.graph.stages.values()]
    try:
        return compare(resolved.read_unchecked(folder), new, _file_of(folder), study.document.data)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        what = f"the study of this folder cannot be read: {error}"
        raise user_error("E408", what, str(folder.resolved), "add --replace to write it again") from error


def refuse_other_settings(study: Study, replace: bool = False, shared: bool = False, option: str = "--replace") -> str:
    """Refuse a study that would take finished or begun runs out of the report of its folder, unless `replace`; with
    `shared`, refuse every change while other controllers are at work. `option` is what the user may add.

    Further runs are no such change. Returns a note on what changed, or nothing. Raises UserError E407 or E408.
    """
    try:
        changes = changes_of(study)
    except UserError:
        if replace:
            return "the study of this folder could not be read and is written again"
        raise
    if changes is None or not (changes.added or changes.removed_runs):
        return ""
    folder = study.folder
    owners = _others_at_work(folder) if shared else []
    if owners:
        what = f"{owners[0]} works on {study.spec.name} with other settings: {changes.shown_settings}"
        raise _refusal(what, study, "use the same settings, or wait for it")
    if not changes.removed_runs:
        return f"{changes.added} runs are new in this folder: {changes.shown_settings}"
    differences = (
        f"{changes.shown_settings}; {changes.removed_runs} of the {changes.runs} runs in it are no part of the study"
    )
    if replace or not any(_is_begun(folder, *stage) for stage in changes.removed_stages):
        return f"{folder.path} held other settings: {differences} any more"
    raise _refusal(
        f"{folder.path} holds {study.spec.name} with other settings: {differences} now",
        study,
        f"give it another name (name={study.spec.name}_2), or add {option}; finished stages stay in the folder",
    )


def _others_at_work(folder: RunDir) -> list[str]:
    """Controllers that share the study now: owners of jobs, or one that has just written the study and owns none
    yet."""
    just_now = time.time() - folder.resolved.stat().st_mtime < STARTING_SECONDS
    return lease.job_owners(folder.path) or (["a controller that has just begun"] if just_now else [])


def _refusal(what: str, study: Study, fix: str) -> UserError:
    return UserError(Problem("E407", what, str(study.folder.study), fix))


def _is_begun(folder: RunDir, kind: str, id_: str) -> bool:
    """True for a stage with a model that is done or was begun; rows are built again in seconds."""
    stage = folder.at(kind, id_)
    return kind not in ("data", "edit") and (stage.is_done() or stage.attempts.is_dir())


def _file_of(folder: RunDir) -> dict[str, Any]:
    """Content of the folder's study file; empty where it cannot be read."""
    try:
        return dict(yaml_strict.read(folder.study).data)
    except UserError:
        return {}
