"""The contract of a defense: which stages it needs, how it rewrites training rows, how it meets a test text.

A defense is handed rows without their origin. One that must know it (a faithful copy of released code) says so with
`reads_origin`, and that is written into the manifest.
"""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from p2p_dist.data.example import Note, Row
from p2p_dist.spec.graph import Builder, Stage
from p2p_dist.spec.study import Plugin


@dataclass(frozen=True)
class DefenderView:
    """All that a defender sees: suspect training rows, rows it trusts, the number of classes, its seed."""

    train: Sequence[Row]
    reserve: Sequence[Row]
    n_classes: int
    seed: int
    origin: Mapping[str, str] | None = None
    """Origin by row id, only for a defense that declares `reads_origin`."""
    places: Mapping[str, int] | None = None
    """Place in the source file by row id, only in studies with `rows.order: file`."""


@dataclass(frozen=True)
class Defended:
    """Rewritten training rows, a note on every row that the defense added or changed, and counts for the manifest."""

    train: list[Row]
    notes: list[Note]
    counts: dict[str, int]


class Defense(Plugin):
    """Base of the defenses in `defenses/`: fine-tune on the attacked rows as they are, unless a subclass says more."""

    plugin_kind: ClassVar[str] = "defenses"

    def stages(self, build: Builder, rows: Stage) -> Stage:
        """Ask for stages over the attacked rows and return the one that evaluates the defended system."""
        return build.evaluated(build.trained(rows), rows)


class DataDefense(Defense):
    """A defense that rewrites rows before training and may prompt, score and map labels at test time in its own way."""

    @property
    def reads_origin(self) -> bool:
        """Whether it must know which rows are poisoned; only faithful copies of released code do."""
        return False

    def stages(self, build: Builder, rows: Stage) -> Stage:
        defended = build.defended(rows)
        return build.evaluated(build.trained(defended), defended)

    @abstractmethod
    def defend_train(self, view: DefenderView) -> Defended:
        """The rows to train on."""

    @abstractmethod
    def defend_prompt(self, row: Row) -> Row:
        """A test row as the deployed model reads it; text, id and gold label stay."""

    @abstractmethod
    def label_offset(self, n_classes: int) -> int:
        """The deployed model answers with labels offset..offset+n-1; subtracting maps them back."""
