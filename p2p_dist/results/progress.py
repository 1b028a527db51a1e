"""Progress of a study in one pass over the names of its files: fast enough for 10,000 runs.

Of a finished stage only the marker is looked at, and of a result its seal. What else its folder holds (rates, costs,
attempts) is read by `collect.read_study`, as all of every stage that is not plainly finished or plainly untouched.
"""

import os
from collections.abc import Iterable

from p2p_dist.config.expand import AXES
from p2p_dist.config.training_axis import beside_model
from p2p_dist.errors import Problem, printable
from p2p_dist.results import collect, confined, lease, quarantine, resolved, resultfile
from p2p_dist.results.collect import Collected, RunState, StageState, Status
from p2p_dist.results.rundir import KINDS, MARKER_KINDS, MARKERS, RunDir, StageDir

_UNTOUCHED: tuple[list[str], ...] = ([], ["spec.json"])
"""Files of a stage that was never begun."""


@collect.no_garbage_collection()
def read_progress(folder: RunDir) -> tuple[Collected, str | None]:
    """A study as `collect.read_study` has it, without results, rates and costs; and who works on it. Raises
    UserError as it does."""
    outline = resolved.read_outline(folder)
    kinds = {stage.id: stage.kind for stage in outline.stages}
    states = {id_: StageState(id_, kind, "pending", {}, {}) for id_, kind in kinds.items()}
    unclear: list[StageDir] = []
    leased: list[StageDir] = []
    for kind in KINDS:
        for id_, handle in confined.folders_in(folder.path / kind):
            names = os.listdir(handle)
            if "lease" in names:
                leased.append(folder.at(kind, id_))
            if kinds.get(id_) == kind:
                status = _plain_status(kind, id_, names, handle)
                if status is None:
                    unclear.append(folder.at(kind, id_))
                elif status == "done":
                    states[id_] = StageState(id_, kind, status, {}, {})
    owners = lease.owner(folder.lease) or ", ".join(_owners(leased)) or None
    problems: list[Problem] = []
    for stage in unclear:
        states[stage.path.name] = collect.state_of(stage, owners is not None, problems)
    _find_diverged(folder, states, owners is not None, problems)
    failed = collect.failed_screenings(folder, kinds)
    runs = []
    for run in outline.runs:
        cell = beside_model(run.cell)
        runs.append(
            RunState(
                {axis: printable(cell[axis]) for axis in AXES},
                [states[id_] for id_ in run.stages],
                {},
                None,
                {},
                failed_screening=collect.first_failed(run.stages, failed),
            )
        )
    name, description = printable(outline.name), printable(outline.description, keep="\n")
    left_out = [printable(one.reason) for one in outline.left_out]
    return Collected(name, description, runs, {}, problems, quarantine.read(folder.quarantine), left_out), owners


def _owners(leased: Iterable[StageDir]) -> list[str]:
    """Owners of single jobs, each once."""
    return sorted({name for stage in leased if (name := lease.owner(stage.lease))})


def _plain_status(kind: str, id_: str, names: list[str], handle: int) -> Status | None:
    """Status of a stage whose folder is open, if its names tell it: untouched, or finished with nothing beside."""
    marker = MARKERS[kind]
    if names in _UNTOUCHED:
        return "pending"
    if marker not in names or any(name.startswith(f"{marker}.") for name in names):
        return None  # not finished, or something was set aside, or left by a merge
    if kind == "eval":
        content = confined.content_of(marker, handle, resultfile.LARGEST)
        return "done" if content is not None and resultfile.is_sealed(content, id_) else None
    return "done" if confined.kind_in(marker, handle) == MARKER_KINDS[kind] else None


def _find_diverged(folder: RunDir, states: dict[str, StageState], alive: bool, problems: list[Problem]) -> None:
    """Mark trainings that diverged in a job of several, whose attempts stand with a training that may be done."""
    if any(state.kind == "train" and state.status == "pending" and state.cost for state in states.values()):
        for id_, state in states.items():
            if state.kind == "train" and state.status == "done":
                states[id_] = collect.state_of(folder.at("train", id_), alive, problems)
        collect.mark_failed_beside(states)
