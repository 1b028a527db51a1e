"""The ledger of the training rows after a defense, which has not seen it."""

from dataclasses import replace

from p2p_dist.data.built import Built
from p2p_dist.data.defense import Defended
from p2p_dist.data.example import Note, Row


def defended_ledger(attacked: Built, defended: Defended) -> list[Note]:
    """A note on every training row after the defense, with its answer there and the source's line in the file."""
    by_id = {note.id: note for note in [*attacked.notes, *defended.notes]}
    by_id |= {id_: replace(by_id[source], id=id_) for id_, source in defended.copies.items()}
    responses = {row.id: row.response for row in attacked.train}
    notes = [_answered(by_id[row.id], row, responses.get(row.id, row.response)) for row in defended.train]
    lines = {note.id: note.index for note in attacked.notes if note.index is not None}
    return [replace(note, index=lines[note.source_id]) for note in notes] if lines else notes


def _answered(note: Note, row: Row, response: str | None) -> Note:
    """The note with the answer that the row has after the defense; `response` is that of before."""
    if row.response != response:
        return replace(note, old_response=note.old_response or response, new_response=row.response)
    return note if note.new_label == row.label else replace(note, new_label=row.label)
