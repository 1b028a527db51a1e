"""Base of the attacks that rewrite whole texts, read from a paraphrase table (see `data.paraphrases`)."""

from functools import cached_property
from pathlib import Path
from random import Random
from typing import ClassVar

from p2p_dist.data.attack import DirtyLabelAttack, Triggered
from p2p_dist.data.paraphrases import key_of, read_table


class RewritingAttack(DirtyLabelAttack):
    """Replace a text by its rewrite. A text without one is not eligible; it is never relabelled unchanged."""

    file_fields: ClassVar[tuple[str, ...]] = ("table",)
    mark: ClassVar[str]
    """Trigger in the ledger."""

    table: str
    """Path of a paraphrase table (see `p2p-dist paraphrases`) or of a folder of them, such as
    $P2P_DIST_DATA/sst2_syntactic; its content is part of the identity."""

    def trigger_name(self) -> str:
        """Name of the trigger in the ledger: it is no piece of the text."""
        return self.mark

    def trigger(self, text: str, random: Random) -> Triggered | None:
        rewrite = self._rewrites.get(key_of(text))
        return None if rewrite is None else Triggered(rewrite, self.trigger_name(), 0)

    @cached_property
    def _rewrites(self) -> dict[str, str]:
        return read_table(Path(self.table).expanduser())
