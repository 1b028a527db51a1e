"""Collect a study's results from its run folder. Safe while the study is running and after a crash."""

import gc
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from p2p_dist.config.expand import AXES
from p2p_dist.config.training_axis import beside_model
from p2p_dist.data.screening_stops import Failed, failure
from p2p_dist.errors import Exit, Problem, printable
from p2p_dist.results import attempts, confined, folder_handles, quarantine, records, resultfile, scorestore
from p2p_dist.results.attempts import Attempt
from p2p_dist.results.quarantine import Quarantined
from p2p_dist.results.resolved import read_resolved
from p2p_dist.results.resultfile import Result
from p2p_dist.results.rundir import KINDS, RunDir, StageDir

Status = Literal["done", "running", "failed", "damaged", "pending"]


@dataclass(frozen=True)
class StageState:
    """State of one stage, derived from its files."""

    id: str
    kind: str
    status: Status
    progress: Mapping[str, Any]
    cost: Mapping[str, Any]
    log: str = ""
    attempts: tuple[Attempt, ...] = ()


@dataclass(frozen=True)
class RunState:
    """State of one run: its cell of the grid, its stages, and its rates so far (name -> k, n, rate)."""

    cell: Mapping[str, str]
    """Labels on every axis; the training stands beside the model (`config.training_axis.beside_model`)."""
    stages: list[StageState]
    rates: Mapping[str, Mapping[str, Any]]
    floor: Mapping[str, Any] | None
    """Clean-model baseline: `asr_ext` of the clean model on this run's triggered rows; None if that model collapsed."""
    counts: Mapping[str, Any]
    ids: Mapping[str, str | None] = field(default_factory=dict)
    """Stage ids by role: train, eval, floor."""
    needs: Mapping[str, Any] = field(default_factory=dict)
    """Assumptions of its defense (`p2p_dist.data.defense.Assumptions`)."""
    failed_screening: Failed | None = None
    """A screening that failed and whose scores this run uses."""

    @property
    def collapsed(self) -> bool:
        """True if its model has collapsed (`p2p_dist.results.resultfile.collapsed`)."""
        majority = self.rates.get("majority_answer")
        return bool(resultfile.collapsed(majority["rate"] if majority else None))

    def collapsed_for(self, rate: str) -> bool:
        """True if this rate is meaningless because the deployed system has collapsed. Rates without the benign trigger
        (`*_nobt`) belong to another system and stay valid."""
        return self.collapsed and not rate.endswith("_nobt")

    @property
    def status(self) -> Status:
        """The most urgent status among its stages."""
        statuses = {stage.status for stage in self.stages}
        order: tuple[Status, ...] = ("running", "failed", "damaged", "pending")
        return next((status for status in order if status in statuses), "done")


@dataclass(frozen=True)
class Collected:
    """A study so far: its runs, its valid results by stage id, and its invalid files."""

    name: str
    description: str
    runs: list[RunState]
    results: Mapping[str, Result]
    problems: list[Problem]
    quarantined: Sequence[Quarantined] = ()
    """Devices that the study uses no more."""
    left_out: Sequence[str] = ()
    """The reason of each cell of the grid that is no run: a file that it reads is missing."""
    resolved: Mapping[str, Any] = field(default_factory=dict, repr=False)
    """Content of `resolved.json`; empty where only its outline was read."""

    def failed_screenings(self) -> list[str]:
        """A sentence on each screening that failed, with the number of runs that use its scores and what to try."""
        counts = Counter(run.failed_screening for run in self.runs if run.failed_screening)
        return [
            f"WARNING: {failed.reason}; {count} of {len(self.runs)} runs use its scores. Try: {failed.advice}"
            for failed, count in counts.items()
        ]

    def attempts(self) -> list[Attempt]:
        """Attempts at all jobs, each once."""
        stages = {stage.id: stage for run in self.runs for stage in run.stages}
        return [attempt for stage in stages.values() for attempt in stage.attempts]


@contextmanager
def no_garbage_collection() -> Iterator[None]:
    """Keep Python from looking through what was read, again and again, for cycles that are not there."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


@no_garbage_collection()
def read_study(folder: RunDir, alive: bool) -> Collected:
    """Collect runs, results and problems of a study. `alive`: a controller holds the study's lease.

    Damaged, foreign and conflicting files are listed in `problems` and not counted. Raises UserError as `read_resolved`
    does.
    """
    resolved = read_resolved(folder)
    kinds = {stage["id"]: stage["kind"] for stage in resolved["stages"]}
    stages: dict[str, StageState] = {}
    results: dict[str, Result] = {}
    problems: list[Problem] = []
    for id_, kind in kinds.items():
        stages[id_], result = _state_and_result(folder.at(kind, id_), alive, problems)
        if result is not None:
            results[id_] = result
    mark_failed_beside(stages)
    collapsed = {
        run["train"]
        for run in resolved["runs"]
        if is_clean(run["cell"]) and run["eval"] in results and results[run["eval"]].collapsed
    }
    failed = failed_screenings(folder, kinds)
    runs = [_run(run, stages, results, collapsed, failed) for run in resolved["runs"]]
    return Collected(
        printable(resolved["name"]),
        printable(resolved["description"], keep="\n"),
        runs,
        results,
        problems,
        quarantine.read(folder.quarantine),
        [printable(one["reason"]) for one in resolved.get("left_out", [])],
        resolved,
    )


def doubtful(folder: RunDir) -> list[StageDir]:
    """Stages of a folder with an invalid result or with something else in the place of their marker."""
    stages = [folder.at(kind, name) for kind in KINDS for name in confined.names(folder.path / kind)]
    return [
        stage
        for stage in stages
        if stage.has_damaged_marker() or (stage.kind == "eval" and isinstance(resultfile.read(stage), Problem))
    ]


def is_clean(cell: Mapping[str, str]) -> bool:
    """True for the clean model, which gives the baselines."""
    return cell["attack"] == cell["defense"] == "none"


def _run(
    run: Mapping[str, Any],
    stages: Mapping[str, StageState],
    results: Mapping[str, Result],
    collapsed: Collection[str],
    failed: Mapping[str, Failed],
) -> RunState:
    """State of one run of `resolved.json`; `collapsed` are the train stages of clean models that have collapsed,
    `failed` the screenings that failed."""
    main, floor = results.get(run["eval"]), results.get(run["floor"] or "")
    has_floor = floor is not None and "asr_ext" in floor.rates and floor.stage.reads.get("adapter") not in collapsed
    cell = beside_model(run["cell"])
    return RunState(
        {axis: printable(cell[axis]) for axis in AXES},
        [stages[id_] for id_ in run["stages"]],
        {name: entry.model_dump() for name, entry in main.rates.items()} if main else {},
        floor.rates["asr_ext"].model_dump() if floor and has_floor else None,
        main.counts if main else {},
        {role: run[role] for role in ("train", "eval", "floor")},
        run.get("needs", {}),
        first_failed(run["stages"], failed),
    )


def failed_screenings(folder: RunDir, kinds: Mapping[str, str]) -> dict[str, Failed]:
    """Each screening that failed, by stage id; `kinds` are the kinds of all stages by id."""
    stops = {id_: scorestore.stop_record(folder.at("score", id_)) for id_, kind in kinds.items() if kind == "score"}
    return {id_: reason for id_, stop in stops.items() if stop and (reason := failure(stop))}


def first_failed(stages: Iterable[str], failed: Mapping[str, Failed]) -> Failed | None:
    """The first of these stages that is a failed screening, or None."""
    return next((failed[id_] for id_ in stages if id_ in failed), None)


def _conflicts(stage: StageDir) -> Iterator[Problem]:
    """Conflicts that a merge left beside a stage."""
    if stage.has_damaged_marker():
        yield resultfile.not_a_marker(stage)
    for name in confined.names(stage.path):
        if not name.startswith(f"{stage.marker.name}.conflict-"):
            continue
        yield Problem(
            "E507",
            f"two different contents for one id: {stage.marker.name} and {name}",
            str(stage.path),
            "compare them and delete one",
        )


def state_of(stage: StageDir, alive: bool, problems: list[Problem]) -> StageState:
    """State of one stage, by all of its files; what is wrong with them is appended to `problems`."""
    return _state_and_result(stage, alive, problems)[0]


def _state_and_result(stage: StageDir, alive: bool, problems: list[Problem]) -> tuple[StageState, Result | None]:
    """State of one stage, and its result if it has a valid one."""
    with folder_handles.held_open(stage.path):
        result = resultfile.read(stage) if stage.kind == "eval" else None
        problems += [result] if isinstance(result, Problem) else []
        for path in resultfile.kept_aside(stage):
            what = "a damaged result was set aside here earlier"
            problems.append(Problem("E502", what, path, "inspect it, then delete it"))
        problems += _conflicts(stage) if stage.kind != "eval" else ()
        tries = attempts.read(stage, problems)
        is_damaged = isinstance(result, Problem) or stage.has_damaged_marker()
        state = StageState(
            stage.path.name,
            stage.kind,
            "damaged" if is_damaged else _status(stage, tries, alive),
            stage.last_metrics() or {},
            records.read(stage.cost, records.Cost, problems),
            tries[-1].log if tries else "",
            tries,
        )
    return state, result if isinstance(result, Result) else None


def mark_failed_beside(stages: dict[str, StageState]) -> None:
    """Trainings that diverged, which leaves a cost and no adapter, in a job whose attempts are recorded in another
    stage's folder."""
    for lead in list(stages.values()):
        last = lead.attempts[-1] if lead.attempts else None
        if last is None or last.code in (None, 0, int(Exit.REQUEUE)):
            continue
        for state in (stages[id_] for id_ in last.stages if id_ in stages):
            if state.kind == "train" and state.status == "pending" and state.cost and not state.attempts:
                stages[state.id] = replace(state, status="failed", log=lead.log)


def _status(stage: StageDir, tries: tuple[Attempt, ...], alive: bool) -> Status:
    if stage.is_done():
        return "done"
    if not tries:
        return "running" if alive and confined.kind_of(stage.metrics) == "file" else "pending"
    if (code := tries[-1].code) is not None:
        return "failed" if code not in (0, int(Exit.REQUEUE)) else "pending"
    return "running" if alive else "pending"
