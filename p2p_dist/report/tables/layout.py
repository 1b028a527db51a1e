"""The paper's layout (its Tables 1 to 3): attacks down, defenses across, CA and ASR in each cell, a table per task."""

from collections.abc import Sequence
from dataclasses import replace

from p2p_dist.report import looks
from p2p_dist.report.evidence import Evidence
from p2p_dist.report.grid import Cell, Head, Table
from p2p_dist.report.groups import Estimate, Group

CA, ASR = "CA ↑", "ASR ↓"


def build(evidence: Evidence) -> list[Table]:
    """One table for each task that has an attack."""
    tasks = dict.fromkeys(group.cell["task"] for group in evidence.groups if group.attack != "none")
    return [_table(task, [group for group in evidence.groups if group.cell["task"] == task]) for task in tasks]


def _table(task: str, groups: Sequence[Group]) -> Table:
    cells = {(group.cell["model"], group.attack, group.defense): group for group in groups}
    defenses = list(dict.fromkeys(group.defense for group in groups))
    rows = []
    for model, attack in dict.fromkeys((group.cell["model"], group.attack) for group in groups):
        found = [cells.get((model, attack, defense)) for defense in defenses]
        rows.append([Cell(model), Cell("clean rows" if attack == "none" else attack), *_row(found)])
    head = [Head("model"), Head("attack")]
    for defense in defenses:
        head += [Head(CA, "clean accuracy of the deployed system, percent", looks.title_of(defense))]
        head += [Head(ASR, "attack success rate of the deployed system, percent", looks.title_of(defense))]
    note = (
        "Best CA and lowest ASR of a row in bold. Small print: 95 % Wilson interval and rows of one seed, or ± the deviation over seeds; "
        "collapsed: a model that gives every row one answer, which is never the best."
    )
    return Table(f"rates_{task}", f"{task}: attacks and defenses", head, rows, lead=2, note=note)


def _row(groups: Sequence[Group | None]) -> list[Cell]:
    accuracies = [group.rate("ca_ext") if group else None for group in groups]
    successes = [group.rate("asr_ext") if group else None for group in groups]
    sound = [group is not None and not group.collapsed for group in groups]
    best_ca = max((found.value for found, good in zip(accuracies, sound, strict=True) if found and good), default=None)
    best_asr = min((found.value for found, good in zip(successes, sound, strict=True) if found and good), default=None)
    several = sum(group is not None for group in groups) > 1
    cells = []
    for group, good, accuracy, success in zip(groups, sound, accuracies, successes, strict=True):
        cells += [_marked(group, estimate_cell(accuracy, several and good and accuracy is not None and accuracy.value == best_ca))]
        cells += [_marked(group, estimate_cell(success, several and good and success is not None and success.value == best_asr))]
    return cells


def _marked(group: Group | None, cell: Cell) -> Cell:
    """The cell with a word about collapsed models in its small print."""
    if group is None or not group.collapsed or not cell.text:
        return cell
    of = f"{group.collapsed} of {len(group.runs)} seeds " if len(group.runs) > 1 else ""
    return replace(cell, detail=f"{cell.detail}, {of}collapsed")


def estimate_cell(found: Estimate | None, best: bool = False) -> Cell:
    """A rate in percent; its small print is interval and count, or deviation and seeds."""
    if found is None:
        return Cell("")
    text, _, detail = found.words().partition(" ")
    return Cell(text, detail, 100 * found.value, best)
