"""SynAttack, Hidden Killer: a syntactic template as the trigger (Qi et al. 2021, arXiv 2105.12400; paper appendix B).

The whole text is replaced by its paraphrase in the form S(SBAR)(,)(NP)(VP)(.); paraphrases come from a table.
"""

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from random import Random
from typing import Any, ClassVar

from p2p_dist.data.attack import DirtyLabelAttack, Triggered
from p2p_dist.data.paraphrases import key_of, read_table
from p2p_dist.spec.study import Rate


class SynAttack(DirtyLabelAttack):
    """A text without a paraphrase leaves the pool; it is never relabelled as it is."""

    file_fields: ClassVar[tuple[str, ...]] = ("table",)
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {"p2p": {"rate": 0.05}, "openbackdoor": {"rate": 0.2}}

    rate: Rate = 0.05
    table: str
    """A paraphrase table (see `p2p-dist paraphrases`); known by its content, not by its path."""

    def trigger(self, text: str, random: Random) -> Triggered | None:
        output = self._rewrites.get(key_of(text))
        return None if output is None else Triggered(output, "S(SBAR)(,)(NP)(VP)(.)", 0)

    @cached_property
    def _rewrites(self) -> dict[str, str]:
        return read_table(Path(self.table).expanduser())
