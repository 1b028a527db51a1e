"""MuScleLoRA-style (Wu et al. 2024, arXiv 2402.12026; released code read): let trusted rows give the direction of every
step.

1. Train a low-rank adapter on the attacked rows.
2. At each step, project every matrix's gradient on that of a batch of trusted rows (`training.alignment`).

Suspect rows decide the length of each matrix's step alone, and AdamW divides most of that out: it is close to training
on the trusted rows for as many steps, which is the control (`control`). Multiple radial scalings need a new dense head,
which a model that answers in words does not have; they are not built.
"""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from pydantic import Field

from p2p_dist.config.builder import Builder, Training
from p2p_dist.config.graph import Stage
from p2p_dist.config.methods import Alignment
from p2p_dist.config.study import Plugin, Positive, RowsSpec
from p2p_dist.data.defense import (
    BENIGN_SELECTION,
    Assumptions,
    DataDefense,
    Defended,
    DefenderView,
    no_trusted_rows,
)
from p2p_dist.data.example import Kind, by_id, smallest
from p2p_dist.data.repeats import repeated
from p2p_dist.data.row_counts import RowCounts
from p2p_dist.data.task import Task
from p2p_dist.errors import UserError, user_error


class MuScleLora(DataDefense):
    """Align gradients with those of trusted rows. Defaults are the original's for classification with Llama-2-7B; the
    preset `generation` has those for text answers."""

    kinds: ClassVar[tuple[Kind, ...]] = ("classification", "generation")
    default_assumptions: ClassVar[Assumptions] = Assumptions(
        "clean_rows", source="arXiv 2402.12026 and its released code; gradient alignment without radial scalings"
    )
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "generation": {
            "clean_rows": 32,
            "reference_batch": 4,
            "batch": 4,
            "raw": 0.5,
            "rank": 4,
            "learning_rate": 2e-5,
            "epochs": 3,
        }
    }

    clean_rows: Annotated[int, Field(ge=1)] = 128
    """Trusted rows that give the direction."""
    reference_batch: Annotated[int, Field(ge=1)] = 16
    """Trusted rows per step."""
    batch: Annotated[int, Field(ge=1)] = 16
    """Suspect rows per step."""
    raw: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Share of the unaligned gradient at the end of training; it grows from 0 by epochs."""
    rank: Annotated[int, Field(ge=1)] = 2
    """Rank of the adapter, at alpha 8."""
    learning_rate: Positive = 1e-5
    epochs: Annotated[int, Field(ge=1)] = 5
    control: bool = False
    """Train the same adapter for as many steps on the trusted rows alone. The defense is worth what it gains over
    this."""

    def incompatibility(self, task: Task, attack: Plugin, rows: RowsSpec) -> str | None:
        return no_trusted_rows(rows, "trusted rows give its steps their direction")

    def shortage(self, counts: RowCounts) -> UserError | None:
        """E205 where fewer rows are reserved."""
        if counts.reserve >= self.clean_rows:
            return None
        what = f"MuScleLoRA needs {self.clean_rows} trusted rows; only {counts.reserve} are reserved"
        return user_error("E205", what, "defense.clean_rows", f"set rows.reserve={self.clean_rows}")

    def stages(self, build: Builder, rows: Stage) -> Stage:
        changes = {
            "learning_rate": self.learning_rate,
            "num_train_epochs": self.epochs,
            "global_batch": self.batch,
            "lora": {"r": self.rank, "alpha": 8.0, "dropout": 0.0},
        }
        if self.control:
            return build.evaluated(build.trained(build.defended(rows), Training(changes=changes)), rows)
        align = Alignment(rows=self.clean_rows, batch=self.reference_batch, raw=self.raw)
        return build.evaluated(build.trained(rows, Training(changes=changes, align=align)), rows)

    def defend_train(self, view: DefenderView) -> Defended:
        """The control's rows: the trusted ones, repeated until there are as many as the attacked rows."""
        if error := self.shortage(view.counts):
            raise error
        chosen = smallest([row.id for row in view.reserve], self.clean_rows, view.seed, BENIGN_SELECTION)
        trusted = by_id(row for row in view.reserve if row.id in chosen)
        rows, copies = repeated(trusted, len(view.train), view.seed)
        counts = {"kept": len(trusted), "clean_rows_used": len(trusted), "repeated": len(copies)}
        return Defended(by_id(rows), [], counts, copies=copies)
