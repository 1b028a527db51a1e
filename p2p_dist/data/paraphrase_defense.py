"""Base of the test-time defenses that replace texts by rewrites, read from a paraphrase table (`data.paraphrases`)."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Annotated, ClassVar

from pydantic import Field

from p2p_dist.config.study import added
from p2p_dist.data.defense import EditDefense, Scores
from p2p_dist.data.example import Row
from p2p_dist.data.paraphrases import key_of, read_table
from p2p_dist.errors import user_error


class TableEdit(EditDefense):
    """Replace test texts by their rewrites; texts whose rewrite failed stay unchanged and are counted."""

    file_fields: ClassVar[tuple[str, ...]] = ("table", "originals")

    table: str
    """Path of a paraphrase table with the clean and the triggered texts, or of a folder of them; its content is part of
    the identity."""
    originals: str | None = added(None)
    """Path of the file whose rows a table of `id` and `text` rewrites; null for tables that say what they rewrite."""
    min_coverage: Annotated[float, Field(ge=0, le=1)] = 0.9
    """Smallest share of a suite that the table must rewrite; below it, rates would be those of the undefended model."""

    def edit(self, rows: Sequence[Row], scores: Mapping[str, Scores]) -> list[str | None]:
        texts = [self._rewrites.get(key_of(row.text)) for row in rows]
        covered = sum(text is not None for text in texts)
        if covered < self.min_coverage * len(rows):
            what = (
                f"the table rewrites {covered} of {len(rows)} texts of a test suite; min_coverage is "
                f"{self.min_coverage:g}"
            )
            fix = (
                "rewrite the texts of the suite too (data/ID/test_*.jsonl has them) and make the table again with "
                "`p2p-dist paraphrases`"
            )
            raise user_error("E262", what, self.table, fix)
        return texts

    @cached_property
    def _rewrites(self) -> dict[str, str]:
        originals = Path(self.originals).expanduser() if self.originals else None
        return read_table(Path(self.table).expanduser(), originals)
