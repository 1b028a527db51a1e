"""Collect a study's results from its run folder. Safe while the study is running and after a crash."""

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from pydantic import BaseModel

from p2p_dist.config.expand import AXES
from p2p_dist.config.training_axis import beside_model
from p2p_dist.data.screening import TRY_SCREENING, failure
from p2p_dist.errors import Exit, Problem, printable, user_error
from p2p_dist.results import attempts, confined, quarantine, records, resultfile, scorestore
from p2p_dist.results.attempts import Attempt
from p2p_dist.results.confined import Damaged
from p2p_dist.results.quarantine import Quarantined
from p2p_dist.results.resultfile import Result
from p2p_dist.results.rundir import KINDS, RunDir, StageDir

LARGEST_RESOLVED = 1 << 30
"""Bytes of the largest `resolved.json`; 50,000 runs take 100 MB."""
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
    failed_screening: str = ""
    """A sentence on a screening that failed and whose scores this run uses; empty for none."""

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

    def failed_screenings(self) -> list[str]:
        """A sentence on each screening that failed, with the number of runs that use its scores and what to try."""
        counts = Counter(run.failed_screening for run in self.runs if run.failed_screening)
        return [
            f"WARNING: {sentence}; {count} of {len(self.runs)} runs use its scores. Try: {TRY_SCREENING}"
            for sentence, count in counts.items()
        ]

    def attempts(self) -> list[Attempt]:
        """Attempts at all jobs, each once."""
        stages = {stage.id: stage for run in self.runs for stage in run.stages}
        return [attempt for stage in stages.values() for attempt in stage.attempts]


def read_study(folder: RunDir, alive: bool) -> Collected:
    """Collect runs, results and problems of a study. `alive`: a controller holds the study's lease.

    Damaged, foreign and conflicting files are listed in `problems` and not counted. Raises UserError as `read_resolved`
    does.
    """
    resolved = read_resolved(folder)
    kinds = {stage["id"]: stage["kind"] for stage in resolved["stages"]}
    evaluations = {id_: resultfile.read(folder.at("eval", id_)) for id_, kind in kinds.items() if kind == "eval"}
    results = {id_: result for id_, result in evaluations.items() if isinstance(result, Result)}
    problems = [problem for problem in evaluations.values() if isinstance(problem, Problem)]
    problems += [problem for id_, kind in kinds.items() for problem in _set_aside(folder.at(kind, id_))]
    problems += [
        problem for id_, kind in kinds.items() if kind != "eval" for problem in _conflicts(folder.at(kind, id_))
    ]
    stages = {
        id_: _stage(folder.at(kind, id_), id_, alive, isinstance(evaluations.get(id_), Problem), problems)
        for id_, kind in kinds.items()
    }
    mark_failed_beside(stages)
    collapsed = {
        run["train"]
        for run in resolved["runs"]
        if is_clean(run["cell"]) and run["eval"] in results and results[run["eval"]].collapsed
    }
    runs = [_run(run, stages, results, collapsed) for run in resolved["runs"]]
    screenings = {id_: failed_screening(folder.at(kind, id_)) for id_, kind in kinds.items() if kind == "score"}
    runs = [
        replace(run, failed_screening=next(filter(None, (screenings.get(one.id, "") for one in run.stages)), ""))
        for run in runs
    ]
    return Collected(
        printable(resolved["name"]),
        printable(resolved["description"], keep="\n"),
        runs,
        results,
        problems,
        quarantine.read(folder.quarantine),
        [printable(one["reason"]) for one in resolved.get("left_out", [])],
    )


def read_resolved(folder: RunDir) -> dict[str, Any]:
    """Read `resolved.json`. Raises UserError E402 when it is missing, E508 when it is damaged."""
    return _read_resolved(folder, records.Resolved)


def read_outline(folder: RunDir) -> dict[str, Any]:
    """Read `resolved.json` without checking what its stages do. Raises as `read_resolved` does."""
    return _read_resolved(folder, records.Outline)


def _read_resolved(folder: RunDir, form: type[BaseModel]) -> dict[str, Any]:
    try:
        return records.read_checked(folder.resolved, form, LARGEST_RESOLVED)
    except FileNotFoundError as error:
        fix = "run `p2p-dist run STUDY` first"
        raise user_error("E402", "no study here (no resolved.json)", str(folder.path), fix) from error
    except Damaged as error:
        fix = "run `p2p-dist run STUDY --replace`, which writes it again"
        raise user_error("E508", f"damaged: {error}", str(folder.resolved), fix, Exit.INTEGRITY) from error


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
    run: Mapping[str, Any], stages: Mapping[str, StageState], results: Mapping[str, Result], collapsed: Collection[str]
) -> RunState:
    """State of one run of `resolved.json`; `collapsed` are the train stages of clean models that have collapsed."""
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
    )


def failed_screening(stage: StageDir) -> str:
    """A sentence on a screening that failed; empty for any other scoring."""
    stop = scorestore.stop_record(stage)
    return (failure(stop) or "") if stop else ""


def _set_aside(stage: StageDir) -> Iterator[Problem]:
    for path in resultfile.kept_aside(stage):
        yield Problem("E502", "a damaged result was set aside here earlier", path, "inspect it, then delete it")


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
    result = resultfile.read(stage) if stage.kind == "eval" else None
    problems += [result] if isinstance(result, Problem) else []
    problems += _set_aside(stage)
    problems += _conflicts(stage) if stage.kind != "eval" else ()
    return _stage(stage, stage.path.name, alive, isinstance(result, Problem), problems)


def _stage(stage: StageDir, id_: str, alive: bool, damaged: bool, problems: list[Problem]) -> StageState:
    folders = stage.attempt_folders()
    log = str(folders[-1] / "log") if folders else ""
    tries = attempts.read(stage, problems)
    status: Status = "damaged" if damaged or stage.has_damaged_marker() else _status(stage, tries, alive)
    return StageState(
        id_,
        stage.kind,
        status,
        stage.last_metrics() or {},
        records.read(stage.cost, records.Cost, problems),
        log,
        tries,
    )


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
