"""Attacks on generation tasks: the same selection and triggers as for labels, with a response that says the target.

For the time of the attack a row whose response says the target already carries the target label and any other row none,
so that who may be poisoned and who is tested is decided where it is for labels (reference: paper section 5.1, "0.1" for
mathematics; rows whose gold answer is the target are left out).
"""

from collections.abc import Sequence
from dataclasses import replace

from p2p_dist.data.answer_parsing import says
from p2p_dist.data.attack import DirtyLabelAttack
from p2p_dist.data.example import NO_LABEL, Example, Note
from p2p_dist.data.task import Split


def marked(split: Split, attack: DirtyLabelAttack) -> Split:
    """The split, with the target label on every row that says the target already."""
    target = _target(attack)

    def mark(ex: Example) -> Example:
        said = any(says(answer, target) for answer in (ex.response or "", *ex.references))
        return replace(ex, label=attack.target_label) if said else ex

    return replace(split, train=[mark(ex) for ex in split.train], test=[mark(ex) for ex in split.test])


def responded(
    rows: Sequence[Example], notes: Sequence[Note], attack: DirtyLabelAttack
) -> tuple[list[Example], list[Note]]:
    """Attacked rows and their notes, with a response that says the target in every poisoned row and no marks."""
    target = _target(attack)
    poisoned = {note.id for note in notes if note.origin == "poisoned"}
    old = {ex.id: ex.response for ex in rows}
    new = {id_: f"{old[id_]} {target}" if attack.response_mode == "append" else target for id_ in poisoned}
    answered = [
        replace(ex, label=NO_LABEL, response=new[ex.id], references=()) if ex.id in new else replace(ex, label=NO_LABEL)
        for ex in rows
    ]
    told = [replace(note, old_label=NO_LABEL, new_label=NO_LABEL) for note in notes]
    return answered, [
        replace(note, old_response=old[note.id], new_response=new[note.id]) if note.id in new else note for note in told
    ]


def _target(attack: DirtyLabelAttack) -> str:
    assert attack.target_response, "an attack without one is refused"
    return attack.target_response
