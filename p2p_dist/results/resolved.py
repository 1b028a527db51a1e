"""`resolved.json` of a study: as a whole, its outline for progress, or the stages that a plan does not have itself."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from p2p_dist.config.graph import Graph, Stage
from p2p_dist.errors import Exit, user_error
from p2p_dist.results import confined, jsonfile, records
from p2p_dist.results.folder_handles import Damaged
from p2p_dist.results.rundir import RunDir

LARGEST = 1 << 30
"""Bytes of the largest file that is read; 50,000 runs take 100 MB."""


def read_resolved(folder: RunDir) -> dict[str, Any]:
    """Read `resolved.json`. Raises UserError E402 when it is missing, E508 when it is damaged."""
    with _refusing_damage(folder):
        return records.read_checked(folder.resolved, records.Resolved, LARGEST)


def read_unchecked(folder: RunDir) -> dict[str, Any]:
    """The object in `resolved.json`, of which nothing is checked. Raises FileNotFoundError and Damaged."""
    return jsonfile.read_object(folder.resolved, LARGEST)


def read_bytes(folder: RunDir) -> bytes:
    """`resolved.json` as it is. Raises FileNotFoundError and Damaged."""
    return confined.read_bytes(folder.resolved, LARGEST)


def read_stages(folder: RunDir, known: Graph) -> dict[str, Stage]:
    """Stages of `resolved.json` that `known` lacks, by id. Raises as `read_resolved` does."""
    with _refusing_damage(folder):
        content = read_unchecked(folder)
        entries = records.check(records.StageEntries, content).stages
        try:
            stages = [records.stage_of(entry) for entry in entries if str(entry.get("id")) not in known.stages]
        except (ValueError, TypeError) as error:
            raise Damaged(str(error)) from error
    return {stage.id: stage for stage in stages}


def read_outline(folder: RunDir) -> records.Outline:
    """Read `resolved.json` without checking what its stages do. Raises as `read_resolved` does."""
    with _refusing_damage(folder):
        return records.read_outline(folder.resolved, LARGEST)


@contextmanager
def _refusing_damage(folder: RunDir) -> Iterator[None]:
    """Name the study file whose reading fails."""
    try:
        yield
    except FileNotFoundError as error:
        fix = "run `p2p-dist run STUDY` first"
        raise user_error("E402", "no study here (no resolved.json)", str(folder.path), fix) from error
    except Damaged as error:
        fix = "run `p2p-dist run STUDY --replace`, which writes it again"
        raise user_error("E508", f"damaged: {error}", str(folder.resolved), fix, Exit.INTEGRITY) from error
