"""Base of the test-time defenses that replace texts by rewrites: read from a paraphrase table (`data.paraphrases`), or
made within the study by a model."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, ClassVar, Self

from pydantic import Field, model_validator

from p2p_dist.config.builder import Builder
from p2p_dist.config.graph import Stage
from p2p_dist.config.score_methods import TextRewrites
from p2p_dist.config.study import added
from p2p_dist.data.defense import Assumptions, EditDefense, Scores
from p2p_dist.data.example import Row
from p2p_dist.data.paraphrases import key_of, read_table, scored_rewrites
from p2p_dist.errors import user_error


class TableEdit(EditDefense):
    """Replace test texts by their rewrites; texts whose rewrite failed stay unchanged and are counted."""

    file_fields: ClassVar[tuple[str, ...]] = ("table", "originals")
    model_options: ClassVar[tuple[str, ...]] = ("rewriter",)
    instructions: ClassVar[tuple[str, ...]]
    """Requests to a rewriter, each about the answer to the one before."""

    table: str | None = None
    """Path of a paraphrase table with the clean and the triggered texts, or of a folder of them; its content is part of
    the identity. null: `rewriter` makes the rewrites."""
    originals: str | None = added(None)
    """Path of the file whose rows a table of `id` and `text` rewrites; null for tables that say what they rewrite."""
    rewriter: str | None = added(None)
    """Instruction-tuned model that rewrites the test texts within the study, a name as in `model`; null: `table`."""
    max_new_tokens: Annotated[int, Field(ge=1)] = added(160)
    """Longest rewrite in tokens of the rewriter; one that does not end has failed."""
    min_coverage: Annotated[float, Field(ge=0, le=1)] = 0.9
    """Smallest share of a suite that must be rewritten; below it, rates would be those of the undefended model."""

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.table is None) == (self.rewriter is None):
            raise ValueError("rewrites come from table or from rewriter: set one of them")
        if self.originals is not None and self.table is None:
            raise ValueError("originals are those of a table: set table, or remove originals")
        return self

    def assumptions(self) -> Assumptions:
        if self.rewriter is None:
            return self.default_assumptions
        return replace(self.default_assumptions, extra_models=f"a rewriter ({self.rewriter})")

    def stages(self, build: Builder, rows: Stage) -> Stage:
        if self.rewriter is None:
            return super().stages(build, rows)
        tested = build.tested(rows)
        method = TextRewrites(sets=("suites",), instructions=self.instructions, max_new_tokens=self.max_new_tokens)
        scores = {"rewrites": build.scored(tested, method, model="rewriter")}
        return build.evaluated(build.trained(rows), build.edited(tested, scores))

    def edit(self, rows: Sequence[Row], scores: Mapping[str, Scores]) -> list[str | None]:
        rewrites = scored_rewrites(scores["rewrites"]) if self.rewriter else self._rewrites
        texts = [rewrites.get(key_of(row.text)) for row in rows]
        covered = sum(text is not None for text in texts)
        if covered < self.min_coverage * len(rows):
            raise self._too_few(covered, len(rows))
        return texts

    def _too_few(self, covered: int, total: int) -> Exception:
        counts = f"{covered} of {total} texts of a test suite; min_coverage is {self.min_coverage:g}"
        if self.rewriter:
            fix = "choose another rewriter, or raise max_new_tokens"
            return user_error("E262", f"{self.rewriter} rewrites {counts}", "defense.rewriter", fix)
        fix = (
            "rewrite the texts of the suite too (data/ID/test_*.jsonl has them) and make the table again with "
            "`p2p-dist paraphrases`, or set rewriter in place of table"
        )
        return user_error("E262", f"the table rewrites {counts}", str(self.table), fix)

    @cached_property
    def _rewrites(self) -> dict[str, str]:
        assert self.table is not None
        originals = Path(self.originals).expanduser() if self.originals else None
        return read_table(Path(self.table).expanduser(), originals)
