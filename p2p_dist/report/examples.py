"""A few test rows side by side: read without the trigger and with it, by the attacked model and by the defended one."""

from collections.abc import Mapping
from dataclasses import dataclass

from p2p_dist.report import looks
from p2p_dist.report.evidence import Evidence
from p2p_dist.report.grid import Cell, Head, Table
from p2p_dist.report.groups import defended_by, undefended
from p2p_dist.results.collect import RunState
from p2p_dist.results.predictions import Prediction

ROWS, ATTACKS = 4, 6


@dataclass(frozen=True)
class _Reader:
    """One model and what it said, by suite and row id."""

    run: RunState
    words: list[str]
    n_classes: int
    offset: int
    said: Mapping[str, Mapping[str, Prediction]]

    def answer(self, suite: str, id_: str) -> Cell:
        """The deployed answer mapped back to the task's labels, and whether it is right."""
        row = self.said[suite].get(id_)
        if row is None:
            return Cell("")
        label = max(range(self.n_classes), key=lambda at: (row.scores[self.offset + at], -at))
        return Cell(self.words[label], "right" if label == row.label else "wrong")


def build(evidence: Evidence) -> list[Table]:
    """One table per attack and defense, of the first model and seed that have both, at most ATTACKS of them."""
    found: dict[tuple[str, str, str], Table] = {}
    others = defended_by(evidence.found.runs)
    for attacked in evidence.found.runs:
        if attacked.cell["attack"] == "none" or attacked.cell["defense"] != "none" or not attacked.rates:
            continue
        for defended in others.get(undefended(attacked.cell), []):
            key = (defended.cell["task"], defended.cell["attack"], defended.cell["defense"])
            if len(found) < ATTACKS and key not in found and (made := _table(evidence, attacked, defended, len(found))):
                found[key] = made
    return list(found.values())


def _table(evidence: Evidence, attacked: RunState, defended: RunState, number: int) -> Table | None:
    before, after = _reader(evidence, attacked), _reader(evidence, defended)
    if before is None or after is None:
        return None
    clean, triggered = evidence.texts(attacked, "clean"), evidence.texts(attacked, "triggered")
    shared = [id_ for id_ in before.said["triggered"] if id_ in triggered and id_ in clean]
    turned = sorted(shared, key=lambda id_: (before.answer("triggered", id_).detail != "wrong", after.answer("triggered", id_).detail == "wrong", id_))
    # Some that the defense saved, and one that it did not where there is one.
    lost = [id_ for id_ in turned if after.answer("triggered", id_).detail == "wrong"]
    chosen = list(dict.fromkeys([*turned[: ROWS - 1], *lost[:1], *turned[ROWS - 1 : ROWS]]))[:ROWS]
    rows = []
    for id_ in chosen:
        truth = before.words[before.said["triggered"][id_].label]
        rows.append(
            [
                Cell(_short(clean[id_])),
                Cell(_short(triggered[id_])),
                Cell(truth),
                *(reader.answer(suite, id_) for reader in (before, after) for suite in ("clean", "triggered")),
            ]
        )
    head = [Head("text"), Head("with the trigger"), Head("true label")]
    for reader in (before, after):
        name = looks.title_of(reader.run.cell["defense"])
        head += [Head("clean", "what the model says to the text", name), Head("triggered", "what it says to the text with the trigger", name)]
    cell = ", ".join(f"{label}" for axis, label in attacked.cell.items() if axis not in ("defense", "seed"))
    return Table(f"examples_{number + 1}", f"{cell}, seed {attacked.cell['seed']}: {looks.title_of(defended.cell['defense'])}", head, rows, lead=3)


def _reader(evidence: Evidence, run: RunState) -> _Reader | None:
    result = evidence.result(run)
    if result is None or result.labels is None:
        return None
    said = {suite: {row.id: row for row in evidence.predictions(run, suite)} for suite in ("clean", "triggered")}
    return _Reader(run, result.labels.words, result.labels.n_classes, result.labels.offset, said)


def _short(text: str, longest: int = 220) -> str:
    """One line of text, cut in the middle, because triggers stand at the ends as often as not."""
    line = " ".join(text.split())
    return line if len(line) <= longest else f"{line[: longest // 2]} … {line[-longest // 2 :]}"
