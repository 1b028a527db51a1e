"""Attacks that rewrite whole texts: they look every text up in a paraphrase table."""

from functools import cached_property
from pathlib import Path
from random import Random
from typing import ClassVar

from p2p_dist.data.attack import DirtyLabelAttack, Triggered
from p2p_dist.data.paraphrases import key_of, read_table


class RewritingAttack(DirtyLabelAttack):
    """A text without a rewrite leaves the pool; it is never relabelled as it is."""

    file_fields: ClassVar[tuple[str, ...]] = ("table",)
    mark: ClassVar[str]
    """What the ledger notes as the trigger."""

    table: str
    """A paraphrase table (see `p2p-dist paraphrases`); known by its content, not by its path."""

    def trigger(self, text: str, random: Random) -> Triggered | None:
        output = self._rewrites.get(key_of(text))
        return None if output is None else Triggered(output, self.mark, 0)

    @cached_property
    def _rewrites(self) -> dict[str, str]:
        return read_table(Path(self.table).expanduser())
