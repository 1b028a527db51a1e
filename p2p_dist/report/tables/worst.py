"""How a defense stands at its worst: over all attacks and their variants, and above what a clean model does anyway."""

from collections.abc import Iterator

from p2p_dist.report import looks
from p2p_dist.report.evidence import Evidence
from p2p_dist.report.grid import Cell, Head, Table
from p2p_dist.report.groups import Group
from p2p_dist.report.tables.comparisons import points
from p2p_dist.results.statistics import Interval, net, wilson, worst_case


def build(evidence: Evidence) -> list[Table]:
    """One table, or none without an attack."""
    found: dict[tuple[str, str, str], dict[str, Interval]] = {}
    floors: dict[str, Interval] = {}
    for group in evidence.groups:
        if group.attack != "none":
            variants = dict(_variants(group))
            found.setdefault((group.cell["task"], group.cell["model"], group.defense), {}).update(variants)
            floors |= {key: floor for key in variants if (floor := _pooled(group, "floor")) and "/" not in key}
    rows = [_row(*key, variants, floors) for key, variants in found.items() if variants]
    head = [
        Head("task"),
        Head("model"),
        Head("defense"),
        Head("worst ASR", "highest attack success rate over the study's attacks and their variants, percent; seeds pooled"),
        Head("reached by"),
        Head("variants", "how many attacks and variants it was taken over"),
        Head("net ASR", "that minus the ASR of a clean model on the same rows, in points; 95 % interval (Newcombe)"),
    ]
    note = "A worst case over few attacks says little; net ASR is missing where the study trains no clean model, or for variants it was not asked about."
    return [Table("worst_case", "At its worst", head, rows, lead=3, note=note)] if rows else []


def _variants(group: Group) -> Iterator[tuple[str, Interval]]:
    """The attack itself, and every other trigger or prompt that was tried on the deployed system."""
    names = dict.fromkeys(name for run in group.runs for name in run.rates if name == "asr_ext" or name.startswith("asr_ext."))
    for name in names:
        if pooled := _pooled(group, name):
            yield (group.attack if name == "asr_ext" else f"{group.attack}/{name.partition('.')[2]}"), pooled


def _pooled(group: Group, name: str) -> Interval | None:
    found = group.rates(name)
    return wilson(sum(rate.k for rate in found), sum(rate.n for rate in found)) if found else None


def _row(task: str, model: str, defense: str, variants: dict[str, Interval], floors: dict[str, Interval]) -> list[Cell]:
    name, worst = worst_case(variants)
    above = net(worst, floors[name]) if name in floors else None
    return [
        Cell(task),
        Cell(model),
        Cell(looks.title_of(defense)),
        Cell(f"{100 * worst.rate:.1f}", f"[{100 * worst.low:.1f}, {100 * worst.high:.1f}] n={worst.n}", 100 * worst.rate),
        Cell(name),
        Cell(str(len(variants)), sort=len(variants)),
        Cell(points(above.value), f"[{points(above.low)}, {points(above.high)}]", 100 * above.value) if above else Cell(""),
    ]
