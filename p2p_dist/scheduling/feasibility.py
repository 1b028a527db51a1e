"""Numbers of a study's rows and the state of its run folder on this machine, checked before anything is built."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from p2p_dist import assets
from p2p_dist.config.expand import axis_labels
from p2p_dist.config.identity import canonical
from p2p_dist.config.study import StudySpec
from p2p_dist.data import chats, sources
from p2p_dist.data.row_counts import RowCounts
from p2p_dist.data.sources import Source
from p2p_dist.data.task import Task
from p2p_dist.errors import Problem, UserError
from p2p_dist.planning import feasibility
from p2p_dist.scheduling.chat_checks import check_turns
from p2p_dist.scheduling.model_facts import layers_of, positions_of
from p2p_dist.scheduling.study import Study

MOST_BYTES = 64 << 20
"""Size of the rows of a task up to which they are counted when a study is planned (about two seconds)."""


@dataclass(frozen=True)
class CountedRows:
    """Rows of a task by class, or the reason why they are not known here."""

    task: str
    counts: RowCounts | None
    reason: str = ""

    def to_json(self) -> dict[str, Any]:
        """The rows as `plan --json` holds them."""
        if self.counts is None:
            return {"task": self.task, "unknown": self.reason}
        parts = {
            "train": self.counts.train_by_class,
            "reserve": self.counts.reserve_by_class,
            "test": self.counts.test_by_class,
        }
        return {
            "task": self.task,
            **{
                part: {_label(label): rows for label, rows in sorted(by_class.items())}
                for part, by_class in parts.items()
            },
        }


def refuse_infeasible(study: Study) -> list[CountedRows]:
    """Count the rows that are on this machine, and check the study against them.

    Raises UserError with every reason why one of its runs can never be, each with its place in the file.
    """
    problems = folder_problems(study.folder.path)
    counted = []
    combinations = study.expansion.combinations
    asked = {one.cell["task"] for one in combinations}
    for label, task, source in zip(axis_labels(study.spec)["task"], study.spec.task, study.sources, strict=True):
        if label not in asked:
            continue
        try:
            counted.append(count_rows(label, task, source, study.spec))
        except UserError as error:
            problems += error.problems
    known = {rows.task: rows.counts for rows in counted if rows.counts is not None}
    problems += feasibility.row_problems(study.spec, combinations, known)
    positions = {model.name: longest for model in study.spec.model if (longest := positions_of(model))}
    problems += feasibility.length_problems(study.spec, positions)
    layers = {canonical(model.identity): count for model in study.spec.model if (count := layers_of(model))}
    problems += feasibility.layer_problems(study.spec, study.expansion, layers)
    problems += feasibility.warmup_problems(study.spec, study.expansion, known)
    if problems:
        raise UserError(*study.placed(problems))
    return counted


def count_rows(label: str, task: Task, source: Source, spec: StudySpec) -> CountedRows:
    """Split the rows of a task as its runs will, and count them by class. Raises UserError for bad or too few rows, and
    for chats that a model's template cannot show."""
    if reason := _unknown(source):
        return CountedRows(label, None, reason)
    raw = chats.in_form(sources.read(task, source, dev=spec.rows.dev is not None), spec.prompt.is_chat)
    check_turns(spec, (row for rows in raw.values() for row in rows))
    split = task.split(raw, spec.rows, 0)
    trusted = [example for example in split.train if example.id in split.reserve]
    return CountedRows(label, RowCounts.of(split.train, trusted, len(task.labels), split.test))


def folder_problems(path: Path) -> list[Problem]:
    """E404 for a run folder that can be neither made nor written."""
    fix = "choose another folder (--runs-dir) or name"
    try:
        existing = next(part for part in (path, *path.parents) if part.is_symlink() or part.exists())
    except OSError as error:
        return [Problem("E404", f"the run folder cannot be made: {error.strerror}", str(path), fix)]
    if not existing.is_dir():
        return [Problem("E404", f"{existing} is a file, so the run folder cannot be made", str(path), fix)]
    if not os.access(existing, os.W_OK | os.X_OK):
        return [Problem("E404", f"{existing} is not writable for this user", str(path), fix)]
    return []


def _unknown(source: Source) -> str:
    """The reason why rows are not counted here, or nothing."""
    if source.kind == "hub":
        return "the rows are on the hub"
    if source.kind == "embedded":
        return "" if assets.is_cached(source.place) else "the rows are not fetched yet"
    place = Path(source.place)
    files = [place] if place.is_file() else [file for file in place.iterdir() if file.is_file()]
    size = sum(file.stat().st_size for file in files)
    return f"the rows are {size >> 20} MiB" if size > MOST_BYTES else ""


def _label(label: int) -> str:
    return "text" if label < 0 else str(label)
