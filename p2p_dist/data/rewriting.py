"""Base of the attacks that rewrite whole texts, by a paraphrase table (`data.paraphrases`) or a model of the study."""

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from random import Random
from typing import ClassVar, Self

from pydantic import PrivateAttr, model_validator

from p2p_dist.data.attack import DirtyLabelAttack, Triggered
from p2p_dist.data.paraphrases import key_of, read_table


class RewritingAttack(DirtyLabelAttack):
    """Replace a text by its rewrite. A text without one is not eligible; it is never relabelled unchanged."""

    file_fields: ClassVar[tuple[str, ...]] = ("table",)
    mark: ClassVar[str]
    """Trigger in the ledger."""
    maker: ClassVar[str]
    """Option that has the study make the rewrites, in place of `table`."""

    table: str | None = None
    """Path of a paraphrase table (see `p2p-dist paraphrases`) or of a folder of them, such as
    $P2P_DIST_DATA/sst2_syntactic; its content is part of the identity. null: the study makes the rewrites."""
    _made: Mapping[str, str] | None = PrivateAttr(default=None)

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.table is None) == (getattr(self, self.maker) is None):
            raise ValueError(f"rewrites come from table or from {self.maker}: set one of them")
        return self

    def with_rewrites(self, rewrites: Mapping[str, str]) -> Self:
        """The attack with rewrites that the study has made, by the key of their original."""
        attack = self.model_copy()
        attack._made = rewrites
        return attack

    def trigger_name(self) -> str:
        """Name of the trigger in the ledger: it is no piece of the text."""
        return self.mark

    def trigger(self, text: str, random: Random) -> Triggered | None:
        rewrite = self._rewrites.get(key_of(text))
        return None if rewrite in (None, text.strip()) else Triggered(str(rewrite), self.trigger_name(), 0)

    @cached_property
    def _rewrites(self) -> Mapping[str, str]:
        if self._made is not None:
            return self._made
        assert self.table is not None, "the study's own rewrites were not handed over"
        return read_table(Path(self.table).expanduser())
