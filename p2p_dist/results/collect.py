"""Read what a study has so far, off its run folder and nothing else. Works while others write, and after all are
dead."""

import json
import os
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from p2p_dist.config.expand import AXES
from p2p_dist.errors import Exit, Problem, user_error
from p2p_dist.results import attempts, records, resultfile
from p2p_dist.results.attempts import Attempt
from p2p_dist.results.resultfile import Result
from p2p_dist.results.rundir import RunDir, StageDir

Status = Literal["done", "running", "failed", "damaged", "pending"]


@dataclass(frozen=True)
class StageState:
    """One stage as its files show it."""

    id: str
    kind: str
    status: Status
    progress: Mapping[str, Any]
    cost: Mapping[str, Any]
    log: str = ""
    attempts: tuple[Attempt, ...] = ()


@dataclass(frozen=True)
class RunState:
    """One run: its cell of the grid, its stages, and its rates as far as they are there (name -> k, n, rate)."""

    cell: Mapping[str, str]
    stages: list[StageState]
    rates: Mapping[str, Mapping[str, Any]]
    floor: Mapping[str, Any] | None
    """`asr_ext` of the clean model on this run's triggered rows; a clean model that has collapsed gives none."""
    counts: Mapping[str, Any]
    ids: Mapping[str, str | None] = field(default_factory=dict)
    """Stage ids by role: train, eval, floor."""
    needs: Mapping[str, Any] = field(default_factory=dict)
    """What its defense takes for granted (`p2p_dist.data.defense.Needs`)."""

    @property
    def collapsed(self) -> bool:
        """Whether its model has collapsed (`p2p_dist.results.resultfile.collapsed`)."""
        usual = self.rates.get("majority_answer")
        return bool(resultfile.collapsed(usual["rate"] if usual else None))

    def collapsed_for(self, rate: str) -> bool:
        """Whether this rate says nothing because the deployed system has collapsed; the weights without its prompt are
        another system."""
        return self.collapsed and not rate.endswith("_nobt")

    @property
    def status(self) -> Status:
        found = {stage.status for stage in self.stages}
        order: tuple[Status, ...] = ("running", "failed", "damaged", "pending")
        return next((status for status in order if status in found), "done")


@dataclass(frozen=True)
class Collected:
    """What a study has: its runs, its whole results by id, and every file that is not what it should be."""

    name: str
    description: str
    runs: list[RunState]
    results: Mapping[str, Result]
    problems: list[Problem]

    def attempts(self) -> list[Attempt]:
        """Every try of every job, each once."""
        stages = {stage.id: stage for run in self.runs for stage in run.stages}
        return [attempt for stage in stages.values() for attempt in stage.attempts]


def read_study(folder: RunDir, alive: bool) -> Collected:
    """Everything that a study has. `alive` says whether somebody holds the study's lease.

    What is damaged, foreign or doubtful is in `problems` and counts for nothing. Raises UserError as `read_resolved`
    does.
    """
    resolved = read_resolved(folder)
    kinds = {stage["id"]: stage["kind"] for stage in resolved["stages"]}
    found = {id_: resultfile.read(folder.at("eval", id_)) for id_, kind in kinds.items() if kind == "eval"}
    results = {id_: result for id_, result in found.items() if isinstance(result, Result)}
    problems = [problem for problem in found.values() if isinstance(problem, Problem)]
    problems += [problem for id_ in found for problem in _kept(folder.at("eval", id_))]
    problems += [problem for id_, kind in kinds.items() if kind != "eval" for problem in _twofold(folder.at(kind, id_))]
    stages = {
        id_: _stage(folder.at(kind, id_), id_, alive, isinstance(found.get(id_), Problem), problems)
        for id_, kind in kinds.items()
    }
    fallen = {
        run["train"]
        for run in resolved["runs"]
        if _is_clean(run["cell"]) and run["eval"] in results and results[run["eval"]].collapsed
    }
    runs = [_run(run, stages, results, fallen) for run in resolved["runs"]]
    return Collected(resolved["name"], resolved["description"], runs, results, problems)


def read_resolved(folder: RunDir) -> dict[str, Any]:
    """`resolved.json`. Raises UserError E402 when it is not there, E508 when it is damaged."""
    if not folder.resolved.is_file():
        raise user_error("E402", "no study here (no resolved.json)", str(folder.path), "`p2p-dist run STUDY` first")
    try:
        content = json.loads(folder.resolved.read_bytes())
        records.Resolved.model_validate(content)
    except ValueError as error:  # of JSON and of pydantic
        why = str(error).partition("\n")[0]
        raise user_error(
            "E508", f"damaged: {why}", str(folder.resolved), "`p2p-dist run STUDY` writes it again", Exit.INTEGRITY
        ) from error
    return dict(content)


def doubtful(folder: RunDir) -> list[StageDir]:
    """The evaluations of a study folder whose result is not what it should be."""
    evaluations = folder.path / "eval"
    stages = (
        [folder.at("eval", path.name) for path in sorted(evaluations.iterdir()) if path.is_dir()]
        if evaluations.is_dir()
        else []
    )
    return [stage for stage in stages if isinstance(resultfile.read(stage), Problem)]


def _is_clean(cell: Mapping[str, str]) -> bool:
    """Whether it is the model that floors are taken from."""
    return cell["attack"] == cell["defense"] == "none"


def _run(
    run: Mapping[str, Any], stages: Mapping[str, StageState], results: Mapping[str, Result], fallen: Collection[str]
) -> RunState:
    """One run of `resolved.json`; `fallen` are the clean models that have collapsed."""
    main, floor = results.get(run["eval"]), results.get(run["floor"] or "")
    has_floor = floor is not None and "asr_ext" in floor.rates and floor.stage.reads.get("adapter") not in fallen
    return RunState(
        {axis: run["cell"][axis] for axis in AXES},
        [stages[id_] for id_ in run["stages"]],
        {name: entry.model_dump() for name, entry in main.rates.items()} if main else {},
        floor.rates["asr_ext"].model_dump() if floor and has_floor else None,
        main.counts if main else {},
        {role: run[role] for role in ("train", "eval", "floor")},
        run.get("needs", {}),
    )


def _kept(stage: StageDir) -> Iterator[Problem]:
    for path in resultfile.kept_aside(stage):
        yield Problem(
            "E502", "a damaged result was set aside here earlier", path, "delete it when you have looked at it"
        )


def _twofold(stage: StageDir) -> Iterator[Problem]:
    """What a merge put beside a stage because the two differed."""
    names = os.listdir(stage.path) if stage.path.is_dir() else []
    for name in sorted(name for name in names if name.startswith(f"{stage.marker.name}.conflict-")):
        yield Problem(
            "E507",
            f"two different contents for one id: {stage.marker.name} and {name}",
            str(stage.path),
            "keep one of them",
        )


def _stage(stage: StageDir, id_: str, alive: bool, damaged: bool, problems: list[Problem]) -> StageState:
    folders = stage.attempt_folders()
    log = str(folders[-1] / "log") if folders else ""
    tries = attempts.read(stage, problems)
    status: Status = "damaged" if damaged else _status(stage, tries, alive)
    return StageState(
        id_,
        stage.kind,
        status,
        stage.last_metrics() or {},
        records.read(stage.cost, records.Cost, problems),
        log,
        tries,
    )


def _status(stage: StageDir, tries: tuple[Attempt, ...], alive: bool) -> Status:
    if stage.is_done():
        return "done"
    if not tries:
        return "running" if alive and stage.metrics.is_file() else "pending"
    if (code := tries[-1].code) is not None:
        return "failed" if code not in (0, int(Exit.REQUEUE)) else "pending"
    return "running" if alive else "pending"
