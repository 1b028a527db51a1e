"""The paper's decomposition of P2P's attack success (appendix A), measured for every run whose answers have a space of
their own."""

from dataclasses import replace

from p2p_dist.evaluation.metrics import Rate
from p2p_dist.evaluation.theory import Decomposition, of_labels, of_texts
from p2p_dist.report import run_columns
from p2p_dist.report.study_data import StudyData
from p2p_dist.report.table import Cell, Head, Table, percent
from p2p_dist.results.collect import RunState
from p2p_dist.results.statistics import wilson

_NOTE = (
    "Percent. Small print: 95 % Wilson interval and count. The formula is an identity when every row is answered "
    "with a label: "
    "what it predicts and what was measured then differ by nothing, and what is to be read is how near alpha is to "
    "100 and epsilon to 0."
)


def build(study_data: StudyData) -> list[Table]:
    """One table, or none when no defense extends the answers."""
    runs = study_data.collected.runs
    decomposed = [(run, parts) for run in runs if (parts := decomposition(study_data, run)) is not None]
    if not decomposed:
        return []
    axes = run_columns.axes(runs)
    head = [
        *(Head(axis) for axis in axes),
        Head("α", "triggered rows, served with the benign trigger, that are answered in the defender's space"),
        Head("ε", "of those, the share that means the attacker's target"),
        Head("β", "of the rows answered in the original space, the share that means the target"),
        Head("neither", "rows whose likeliest token is no label at all"),
        Head("αε + (1−α)β", "the attack success that the formula gives"),
        Head("measured", "attack success over all labels, mapped back (asr_mapped); of text: asr_ext"),
        Head(
            "clean-model baseline",
            "a model trained on clean rows, on the same triggered rows: epsilon is no failure below it",
        ),
    ]
    return [
        Table(
            "theory",
            "Appendix A, measured",
            head,
            [_row(run, axes, parts) for run, parts in decomposed],
            lead=len(axes),
            note=_NOTE,
        )
    ]


def decomposition(study_data: StudyData, run: RunState) -> Decomposition | None:
    """The counts of a run; None where it is not evaluated on triggered rows or nothing extends its answers."""
    result = study_data.result(run)
    if result is None or "asr_ext" not in result.rates:
        return None
    labels = result.labels
    if labels is None:
        return (
            of_texts((row.prefixed, bool(row.says_target)) for row in study_data.answers(run, "triggered").values())
            if "prefix_rate" in result.rates
            else None
        )
    if not labels.offset or labels.target is None:
        return None
    return of_labels(result.histograms.get("triggered", {}), labels.words, labels.n_classes, labels.target)


def _row(run: RunState, axes: list[str], parts: Decomposition) -> list[Cell]:
    measured = run.rates.get("asr_mapped", run.rates["asr_ext"])
    return [
        *(Cell(run.cell[axis]) for axis in axes),
        *(_cell(rate) for rate in (parts.alpha, parts.epsilon, parts.beta, Rate(parts.neither, parts.rows))),
        Cell(percent(parts.predicted), sort=None if parts.predicted is None else 100 * parts.predicted),
        replace(_cell(Rate(measured["k"], measured["n"])), flag="collapsed" if run.collapsed else ""),
        _cell(Rate(run.floor["k"], run.floor["n"]) if run.floor else None),
    ]


def _cell(rate: Rate | None) -> Cell:
    if rate is None:
        return Cell("")
    interval = wilson(rate.k, rate.n)
    return Cell(
        percent(interval.rate),
        f"[{percent(interval.low)}, {percent(interval.high)}] {rate.k}/{rate.n}",
        100 * interval.rate,
    )
