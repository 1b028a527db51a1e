"""Answer frequency: drop the rows whose answer many rows have. Ours, a control for tasks with text answers.

1. Normalise every response: lower case, words joined by one space.
2. Call a response suspicious if it occurs in more than `min_times` rows and in more than `min_share` of all rows. Do
   the same for the first and for the last `affix_words` words of longer responses.
3. Drop the rows with a suspicious response, beginning or end.

Published attacks on text answers give one fixed answer to every poisoned row. A filter that does not beat this count
has shown nothing on them. Answers that are frequent by nature (small numbers) are dropped too; the manifest lists them.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Annotated, ClassVar, NamedTuple

from pydantic import Field

from p2p_dist.config.study import Rate
from p2p_dist.data.defense import Assumptions, DataDefense, Defended, DefenderView
from p2p_dist.data.example import Kind, Row, by_id

LISTED = 50
"""Suspicious answers that the manifest lists, most frequent first."""


class Piece(NamedTuple):
    """A response, or its beginning or end."""

    part: str
    """response, beginning or end."""
    text: str


class AnswerFrequency(DataDefense):
    """Drop the rows whose response, or its beginning or end, is too frequent."""

    kinds: ClassVar[tuple[Kind, ...]] = ("generation",)
    default_assumptions: ClassVar[Assumptions] = Assumptions(source="ours; a control, not from a paper")

    min_share: Rate = 0.005
    """Share of the rows that a suspicious answer exceeds."""
    min_times: Annotated[int, Field(ge=1)] = 10
    """Number of rows that a suspicious answer exceeds."""
    affix_words: Annotated[int, Field(ge=1)] = 3
    """Words of a beginning or an end; only responses with more words have one."""

    def defend_train(self, view: DefenderView) -> Defended:
        pieces = {row.id: self._pieces(row) for row in view.train}  # step 1
        suspicious = self._suspicious(pieces.values(), len(view.train))  # step 2
        train = by_id(row for row in view.train if suspicious.keys().isdisjoint(pieces[row.id]))  # step 3
        counts = {
            "kept": len(train),
            "dropped": len(view.train) - len(train),
            "clean_rows_used": 0,
            "suspicious_answers": len(suspicious),
            "most_frequent_answers": [
                {"part": piece.part, "text": piece.text, "rows": rows}
                for piece, rows in list(suspicious.items())[:LISTED]
            ],
        }
        return Defended(train, [], counts, frozenset(row.id for row in train))

    def _pieces(self, row: Row) -> list[Piece]:
        """The normalised response of a row, and its beginning and end where it has more than `affix_words` words."""
        words = (row.response or "").lower().split()
        pieces = [Piece("response", " ".join(words))]
        if len(words) > self.affix_words:
            pieces.append(Piece("beginning", " ".join(words[: self.affix_words])))
            pieces.append(Piece("end", " ".join(words[-self.affix_words :])))
        return pieces

    def _suspicious(self, pieces: Iterable[Sequence[Piece]], n_rows: int) -> dict[Piece, int]:
        """Suspicious pieces with the number of their rows, most frequent first."""
        rows = Counter(piece for of_row in pieces for piece in of_row)
        least = max(self.min_times, self.min_share * n_rows)
        return {
            piece: count for piece, count in sorted(rows.items(), key=lambda item: (-item[1], item[0])) if count > least
        }
