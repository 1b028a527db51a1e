"""Read what a study has so far, off its run folder and nothing else. Works while others write, and after all are dead."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from p2p_dist.errors import Exit, user_error
from p2p_dist.results.rundir import RunDir, StageDir
from p2p_dist.spec.expand import AXES

Status = Literal["done", "running", "failed", "pending"]


@dataclass(frozen=True)
class StageState:
    """One stage as its files show it."""

    id: str
    kind: str
    status: Status
    progress: Mapping[str, Any]
    cost: Mapping[str, Any]
    log: str = ""


@dataclass(frozen=True)
class RunState:
    """One run: its cell of the grid, its stages, and its rates as far as they are there (name -> k, n, rate)."""

    cell: Mapping[str, str]
    stages: list[StageState]
    rates: Mapping[str, Mapping[str, Any]]
    floor: Mapping[str, Any] | None
    """`asr_ext` of the clean model on this run's triggered rows."""
    counts: Mapping[str, Any]

    @property
    def status(self) -> Status:
        found = {stage.status for stage in self.stages}
        order: tuple[Status, ...] = ("running", "failed", "pending")
        return next((status for status in order if status in found), "done")


def read_runs(folder: RunDir, alive: bool) -> list[RunState]:
    """Every run of the study. `alive` says whether somebody holds the study's lease.

    Raises UserError E402 when the folder is not a study's, E403 for a result that is not whole.
    """
    if not folder.resolved.is_file():
        raise user_error("E402", "no study here (no resolved.json)", str(folder.path), "`p2p-dist run STUDY` first")
    resolved = json.loads(folder.resolved.read_text())
    kinds = {stage["id"]: stage["kind"] for stage in resolved["stages"]}
    return [_run(folder, run, kinds, alive) for run in resolved["runs"]]


def _run(folder: RunDir, run: Mapping[str, Any], kinds: Mapping[str, str], alive: bool) -> RunState:
    stages = [_stage(folder.at(kinds[id_], id_), id_, alive) for id_ in run["stages"]]
    main = read_result(folder.at("eval", run["eval"]))
    floor = read_result(folder.at("eval", run["floor"])) if run["floor"] else None
    return RunState(
        {axis: run["cell"][axis] for axis in AXES},
        stages,
        main["rates"] if main else {},
        floor["rates"].get("asr_ext") if floor else None,
        main["counts"] if main else {},
    )


def read_result(stage: StageDir) -> dict[str, Any] | None:
    """A finished evaluation, or None. Raises UserError E403 for a file that is not a whole result of ours."""
    if not stage.result.is_file():
        return None
    try:
        result = json.loads(stage.result.read_text())
        whole = result["schema"] == 1 and all(s["n_scored"] == s["n_expected"] for s in result["suites"].values())
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise user_error("E403", f"not a result: {error}", str(stage.result), "delete its folder and run again", Exit.INTEGRITY) from error
    if not whole:
        raise user_error("E403", "written by another version, or not complete", str(stage.result), "run with that version", Exit.INTEGRITY)
    return dict(result)


def _stage(stage: StageDir, id_: str, alive: bool) -> StageState:
    attempts = stage.attempt_folders()
    log = str(attempts[-1] / "log") if attempts else ""
    cost = json.loads(stage.cost.read_text()) if stage.cost.is_file() else {}
    progress = stage.last_metrics() or {}
    return StageState(id_, stage.kind, _status(stage, alive), progress, cost, log)


def _status(stage: StageDir, alive: bool) -> Status:
    if stage.is_done():
        return "done"
    attempts = stage.attempt_folders()
    if not attempts:
        return "running" if alive and stage.metrics.is_file() else "pending"
    exit_file = attempts[-1] / "exit.json"
    if exit_file.is_file():
        return "failed" if json.loads(exit_file.read_text())["code"] not in (0, int(Exit.REQUEUE)) else "pending"
    return "running" if alive else "pending"
