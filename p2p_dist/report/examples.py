"""A few test rows side by side: read without the trigger and with it, by the attacked model and by the defended one."""

from p2p_dist.report.answer_cells import SUITES, Reader, reader_of, short
from p2p_dist.report.groups import defended_by, undefended
from p2p_dist.report.plots import style
from p2p_dist.report.study_data import StudyData
from p2p_dist.report.table import Cell, Head, Table
from p2p_dist.results.collect import RunState

ROWS, ATTACKS = 4, 6


def build(study_data: StudyData) -> list[Table]:
    """One table per attack and defense, of the first model and seed that have both, at most ATTACKS of them."""
    tables: dict[tuple[str, str, str], Table] = {}
    others = defended_by(study_data.collected.runs)
    for attacked in study_data.collected.runs:
        if attacked.cell["attack"] == "none" or attacked.cell["defense"] != "none" or not attacked.rates:
            continue
        for defended in others.get(undefended(attacked.cell), []):
            key = (defended.cell["task"], defended.cell["attack"], defended.cell["defense"])
            if (
                len(tables) < ATTACKS
                and key not in tables
                and (made := _table(study_data, attacked, defended, len(tables)))
            ):
                tables[key] = made
    return list(tables.values())


def _table(study_data: StudyData, attacked: RunState, defended: RunState, number: int) -> Table | None:
    before, after = reader_of(study_data, attacked), reader_of(study_data, defended)
    if before is None or after is None:
        return None
    clean, triggered = study_data.texts(attacked, "clean"), study_data.texts(attacked, "triggered")
    chosen = _choose(before, after, [id_ for id_ in before.ids if id_ in triggered and id_ in clean])
    rows = [
        [
            Cell(short(clean[id_])),
            Cell(short(triggered[id_])),
            Cell(before.truth(id_)),
            *(reader.answer(suite, id_) for reader in (before, after) for suite in SUITES),
        ]
        for id_ in chosen
    ]
    head = [Head("text"), Head("with the trigger"), Head(before.gold)]
    for reader in (before, after):
        name = style.title_of(reader.defense)
        head += [
            Head("clean", "what the model says to the text", name),
            Head("triggered", "what it says to the text with the trigger", name),
        ]
    cell = ", ".join(f"{label}" for axis, label in attacked.cell.items() if axis not in ("defense", "seed"))
    fallen = " and ".join(
        f"{style.title_of(run.cell['defense'])} has collapsed" for run in (attacked, defended) if run.collapsed
    )
    title = f"{cell}, seed {attacked.cell['seed']}: {style.title_of(defended.cell['defense'])}" + (
        f" ({fallen})" if fallen else ""
    )
    return Table(f"examples_{number + 1}", title, head, rows, lead=3)


def _choose(before: Reader, after: Reader, shared: list[str]) -> list[str]:
    """Some rows that the defense saved, and one that it did not where there is one."""
    turned = sorted(shared, key=lambda id_: (not before.fooled(id_), after.fooled(id_), id_))
    lost = [id_ for id_ in turned if after.fooled(id_)]
    return list(dict.fromkeys([*turned[: ROWS - 1], *lost[:1], *turned[ROWS - 1 : ROWS]]))[:ROWS]
