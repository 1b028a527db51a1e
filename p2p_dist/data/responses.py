"""Attacks on generation tasks: the selection and triggers of labels, with a response that gives the attacker's target.

During the attack a row whose response gives the target already has the target label, and any other row has none. So the
rules for labels decide which rows may be poisoned and which are tested (P2P paper, section 5.1: "0.1" for mathematics;
rows whose gold answer is the target are left out).
"""

from collections.abc import Sequence
from dataclasses import replace

from p2p_dist.data.answer_parsing import gives_target
from p2p_dist.data.attack import DirtyLabelAttack
from p2p_dist.data.example import NO_LABEL, Example, Note
from p2p_dist.data.task import Split


def label_by_response(split: Split, attack: DirtyLabelAttack) -> Split:
    """The split with the target label on every row whose response gives the target."""
    target = _target(attack)

    def label(ex: Example) -> Example:
        answers = (ex.response or "", *ex.references)
        return replace(ex, label=attack.target_label) if any(gives_target(a, target) for a in answers) else ex

    return replace(split, train=[label(ex) for ex in split.train], test=[label(ex) for ex in split.test])


def respond_with_target(
    rows: Sequence[Example], notes: Sequence[Note], attack: DirtyLabelAttack
) -> tuple[list[Example], list[Note]]:
    """Attacked rows and their notes, with the target in the response of every poisoned row and without labels."""
    target = _target(attack)
    old = {ex.id: ex.response for ex in rows}
    poisoned = {note.id for note in notes if note.origin == "poisoned"}
    new = {id_: f"{old[id_]} {target}" if attack.response_mode == "append" else target for id_ in poisoned}

    def respond(ex: Example) -> Example:
        unlabelled = replace(ex, label=NO_LABEL)
        return replace(unlabelled, response=new[ex.id], references=()) if ex.id in new else unlabelled

    def record(note: Note) -> Note:
        unlabelled = replace(note, old_label=NO_LABEL, new_label=NO_LABEL)
        if note.id not in new:
            return unlabelled
        return replace(unlabelled, old_response=old[note.id], new_response=new[note.id])

    return [respond(ex) for ex in rows], [record(note) for note in notes]


def _target(attack: DirtyLabelAttack) -> str:
    assert attack.target_response, "an attack without one is incompatible with the task"
    return attack.target_response
