"""Problems and gaps: failed attempts, doubtful files, missing numbers."""

from collections.abc import Iterator

from p2p_dist.errors import Exit
from p2p_dist.report.groups import hidden
from p2p_dist.report.study_data import StudyData
from p2p_dist.report.table import Cell, Head, Table
from p2p_dist.results.attempts import Attempt
from p2p_dist.results.collect import RunState, StageState
from p2p_dist.results.rundir import KINDS

SHOWN = 12
_WORDS = {
    int(Exit.REQUEUE): "asked to stop",
    -9: "killed (SIGKILL)",
    -15: "killed (SIGTERM)",
    -11: "crashed (SIGSEGV)",
    int(Exit.INTEGRITY): "damaged files",
}


def build(study_data: StudyData) -> list[Table]:
    """Up to three tables; an empty one is not made."""
    return [table for table in (_failures(study_data), _files(study_data), _missing(study_data)) if table.rows]


def strangers(study_data: StudyData) -> Iterator[str]:
    """A remark on the folders among the stages that belong to no run: left by an earlier or larger form of the study,
    or by another one."""
    paths = [
        f"{kind}/{path.name}"
        for kind in KINDS
        for path in sorted((study_data.folder.path / kind).glob("*"))
        if path.name not in study_data.specs and not path.name.startswith(".")
    ]
    if paths:
        shown = ", ".join(paths[:SHOWN]) + (", …" if len(paths) > SHOWN else "")
        yield (
            f"{len(paths)} folders or files here are of no run of the study as it was asked for last, and are not "
            f"on this page: {shown}."
        )


def _failures(study_data: StudyData) -> Table:
    rows = []
    stages = {stage.id: stage for run in study_data.collected.runs for stage in run.stages}
    for stage in stages.values():
        for attempt in stage.attempts:
            last = attempt is stage.attempts[-1]
            if why := _why(attempt, stage, last):
                after = "done later" if stage.status == "done" and not (last and attempt.code is None) else stage.status
                rows.append(
                    [
                        Cell(study_data.titles.get(stage.id, stage.id)),
                        Cell(stage.id),
                        Cell(str(attempt.number), sort=attempt.number),
                        Cell(why),
                        Cell("" if attempt.seconds is None else f"{attempt.seconds:,.0f}", sort=attempt.seconds),
                        Cell(after),
                    ]
                )
    head = [
        Head("stage"),
        Head("id", printed=False),
        Head("attempt"),
        Head("ended"),
        Head("seconds", "how long it ran"),
        Head("state now"),
    ]
    return Table("failures", "Failures and retries", head, rows, lead=2)


def _why(attempt: Attempt, stage: StageState, last: bool) -> str:
    """End of an attempt as text; empty when it ended well or is running."""
    if attempt.code is None:
        return "" if last and stage.status == "running" else "nobody saw its end: who watched it was gone"
    return attempt.reason or ("" if attempt.code == 0 else _WORDS.get(attempt.code, f"exit code {attempt.code}"))


def _files(study_data: StudyData) -> Table:
    rows = [
        [Cell(problem.code), Cell(problem.where), Cell(problem.what), Cell(problem.fix)]
        for problem in study_data.collected.problems
    ]
    head = [Head("code"), Head("file"), Head("what is wrong"), Head("what to do")]
    return Table("doubtful_files", "Files that count for nothing", head, rows, lead=2)


def _missing(study_data: StudyData) -> Table:
    rows = [
        [*(Cell(label) for label in run.cell.values()), Cell(run.status), Cell(why)]
        for run in study_data.collected.runs
        for why in _reasons(run)
    ]
    axes = [Head(axis) for axis in study_data.collected.runs[0].cell] if study_data.collected.runs else []
    return Table("missing", "Missing runs", [*axes, Head("state"), Head("why")], rows, lead=len(axes))


def _reasons(run: RunState) -> Iterator[str]:
    if run.status != "done":
        waiting = next((stage for stage in run.stages if stage.status == run.status), run.stages[-1])
        log = f", see {waiting.log}" if run.status == "failed" and waiting.log else ""
        yield f"{waiting.kind} {waiting.id} is {waiting.status}{log}"
    if run.rates and run.cell["attack"] != "none" and run.floor is None:
        yield (
            "no clean-model baseline: the study has no clean, undefended model for this task, model and seed, or it is "
            "not evaluated yet, or it has collapsed"
        )
    if (failed := run.counts.get("trigger_failed")) and run.rates:
        yield f"{failed} test rows could not carry the trigger and are not counted"
    if raw := hidden(run):
        what = "the likeliest token is the target's own, and mapping labels back makes another class of it"
        yield (
            f"the backdoor fires: on {raw['k']} of {raw['n']} triggered rows {what}, so its attack success is no "
            "sign of a defense"
        )
    if run.failed_screening:
        yield run.failed_screening.reason
    if run.collapsed:
        usual = run.rates["majority_answer"]
        yield (
            f"collapsed: {usual['k']} of {usual['n']} clean rows get one and the same answer, so no rate of this "
            "run says anything about its defense"
        )
