"""The table of a study: declared columns over runs. A missing number is a dash, never 0."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from p2p_dist.report.groups import counts
from p2p_dist.results.collect import RunState
from p2p_dist.results.paired_rates import excess_of
from p2p_dist.results.statistics import Excess, Interval, wilson


@dataclass(frozen=True)
class Column:
    """One rate of the table: its title, what it means, and how to find it in a run."""

    key: str
    title: str
    short: str | None
    """Title in a terminal of 80 columns; None: not shown there."""
    meaning: str
    find: Callable[[RunState], Interval | Excess | None]
    deployed: bool = True
    """True for a rate of the run's own deployed system, which has no meaning once that has collapsed."""


def _rate(name: str) -> Callable[[RunState], Interval | Excess | None]:
    return lambda run: _interval(run.rates.get(name))


def _interval(rate: Mapping[str, int] | None) -> Interval | None:
    return wilson(rate["k"], rate["n"]) if rate else None


COLUMNS = (
    Column(
        "ca",
        "CA",
        "CA",
        "clean accuracy of the deployed system (ca_ext: best deployed label, mapped back)",
        _rate("ca_ext"),
    ),
    Column(
        "asr",
        "ASR",
        "ASR",
        "attack success rate of the deployed system on triggered rows, answers held to its own labels (asr_ext)",
        _rate("asr_ext"),
    ),
    Column(
        "asr_mapped",
        "ASR mapped",
        "mapped",
        "the same with every label allowed and mapped back (asr_mapped): a system that does not constrain its decoding",
        _rate("asr_mapped"),
    ),
    Column(
        "asr_untriggered",
        "ASR untriggered",
        None,
        "the triggered rows without the trigger, same model and same prompt, that go to the target (asr_untriggered)",
        _rate("asr_untriggered"),
    ),
    Column(
        "asr_excess",
        "Excess",
        "excess",
        "ASR minus ASR untriggered on the same rows, in points, with Newcombe's interval for paired rates (asr_excess)",
        lambda run: excess_of(counts(run)),
    ),
    Column(
        "asr_excess_mapped",
        "Excess mapped",
        None,
        "the same with every label allowed and mapped back (asr_excess_mapped)",
        lambda run: excess_of(counts(run), "asr_mapped"),
    ),
    Column(
        "asr_strict",
        "ASR strict",
        None,
        "as the code released with P2P counts it: the likeliest token of all is target + offset",
        _rate("asr_strict"),
    ),
    Column(
        "asr_nobt",
        "ASR without benign trigger",
        "no bt",
        "the same weights served without the defense's prompt (asr_nobt)",
        _rate("asr_nobt"),
        False,
    ),
    Column(
        "robust",
        "Robust acc.",
        None,
        "triggered rows that still get their true label (robust_acc)",
        _rate("robust_acc"),
    ),
    Column(
        "floor",
        "Clean-model baseline",
        "baseline",
        "ASR of a model trained on clean rows, on the same triggered rows",
        lambda run: _interval(run.floor),
        False,
    ),
    Column(
        "invalid",
        "Invalid",
        "invalid",
        "clean rows whose likeliest token is no label at all (invalid_rate)",
        _rate("invalid_rate"),
        False,
    ),
)


@dataclass(frozen=True)
class TableRow:
    """One run: its labels, and an interval per column or None."""

    labels: tuple[str, ...]
    cells: tuple[Interval | Excess | None, ...]
    status: str
    collapsed: bool


def rows(runs: Sequence[RunState]) -> list[TableRow]:
    """The table's body in the order of the study."""
    shown = axes(runs)
    return [
        TableRow(
            tuple(run.cell[axis] for axis in shown),
            tuple(column.find(run) for column in COLUMNS),
            run.status,
            run.collapsed,
        )
        for run in runs
    ]


def axes(runs: Sequence[RunState]) -> list[str]:
    """The axes worth a column: attack and defense always, the others when they vary."""
    varying = [axis for axis in runs[0].cell if len({run.cell[axis] for run in runs}) > 1]
    return [axis for axis in runs[0].cell if axis in varying or axis in ("attack", "defense")]
