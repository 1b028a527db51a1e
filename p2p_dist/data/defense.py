"""The contract of a defense: which stages it needs, how it rewrites training rows, how it meets a test text.

A defense is handed rows without their origin. One that must know it (a faithful copy of released code) says so with
`reads_origin`, and that is written into the manifest.
"""

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from p2p_dist.config.builder import Builder
from p2p_dist.config.graph import Stage
from p2p_dist.config.study import Plugin, Rate, RowsSpec
from p2p_dist.data.example import Kind, Note, Row, smallest
from p2p_dist.data.task import Task
from p2p_dist.errors import user_error

Scores = Mapping[str, Mapping[str, Mapping[str, Any]]]
"""What a score stage found: set of rows (`train`, `reserve` or the name of a suite) -> row id -> named numbers."""
BENIGN_SELECTION = "p2p.select"
"""The stream that chooses among checked rows, so that every defense is granted the same ones."""


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
    scores: Mapping[str, Scores] = field(default_factory=dict)
    """What models said about these rows, by the role under which the defense asked for it."""
    phase: str | None = None
    """Which rewrite this is, for a defense that makes several."""


@dataclass(frozen=True)
class Defended:
    """Rewritten training rows, a note on every row that the defense added or changed, and counts for the manifest."""

    train: list[Row]
    notes: list[Note]
    counts: Mapping[str, Any]
    trusted: frozenset[str] | None = None
    """Ids of the training rows that the defender takes for clean, if it judges them."""


@dataclass(frozen=True)
class Assumptions:
    """Assumptions of a defense, shown beside its results."""

    clean_rows: str = "none"
    """Clean labelled rows that it uses."""
    extra_models: str = "none"
    """Models beside the one that is defended."""
    prompt_control: bool = False
    """Whether whoever serves the model must put something into every prompt."""
    source: str = ""
    """Where the method is described, and what here differs from that."""


class Defense(Plugin):
    """Base of the defenses in `defenses/`: fine-tune on the attacked rows as they are, unless a subclass says more."""

    plugin_kind: ClassVar[str] = "defenses"
    default_assumptions: ClassVar[Assumptions] = Assumptions()
    """Assumptions with the default options (see `assumptions`)."""
    kinds: ClassVar[tuple[Kind, ...]] = ("classification", "generation")
    """What the answers of a task may be for this defense to make sense."""

    def assumptions(self) -> Assumptions:
        """Assumptions with the options at hand."""
        return self.default_assumptions

    def incompatibility(self, task: Task, attack: Plugin, rows: RowsSpec) -> str | None:
        """Why this defense makes no sense here, in words, or None. Asked when a study is planned."""
        return None

    def stages(self, build: Builder, rows: Stage) -> Stage:
        """Ask for stages over the attacked rows and return the one that evaluates the defended system."""
        return build.evaluated(build.trained(rows), rows)


class DataDefense(Defense):
    """A defense that rewrites rows before training and may prompt, score and map labels at test time in its own way."""

    kinds: ClassVar[tuple[Kind, ...]] = ("classification",)

    @property
    def reads_origin(self) -> bool:
        """Whether it must know which rows are poisoned; only faithful copies of released code do."""
        return False

    @property
    def answer_prefix(self) -> str:
        """What the deployed model begins every answer with in generation tasks."""
        return ""

    def literals(self) -> tuple[str, ...]:
        """The fixed pieces of text that the defender puts into rows, to be counted where they stand already."""
        return ()

    def stages(self, build: Builder, rows: Stage) -> Stage:
        defended = build.defended(rows)
        return build.evaluated(build.trained(defended), defended)

    @abstractmethod
    def defend_train(self, view: DefenderView) -> Defended:
        """The rows to train on."""

    def defend_prompt(self, row: Row) -> Row:
        """A test row as the deployed model reads it; text, id and gold label stay."""
        return row

    def label_offset(self, n_classes: int) -> int:
        """The deployed model answers with labels offset..offset+n-1; subtracting maps them back."""
        return 0

    def label_shift(self, n_classes: int) -> int:
        """The deployed model answers class y with offset + (y + shift) mod n."""
        return 0


class TrustedRows(DataDefense):
    """A defense that trains on checked rows and nothing else: as many as P2P would be granted at this ratio, and the
    same."""

    kinds: ClassVar[tuple[Kind, ...]] = ("classification", "generation")

    ratio: Rate = 0.2
    """Checked rows as a share of the training rows."""

    def incompatibility(self, task: Plugin, attack: Plugin, rows: RowsSpec) -> str | None:
        return None if rows.reserve else "it trains on rows that the defender has checked, and rows.reserve is 0"

    def defend_train(self, view: DefenderView) -> Defended:
        wanted = math.ceil(self.ratio * len(view.train))
        if len(view.reserve) < wanted:
            what = f"{wanted} checked rows wanted ({self.ratio:g} of {len(view.train)}), there are {len(view.reserve)}"
            raise user_error("E205", what, "defense.ratio", f"rows.reserve={wanted}")
        chosen = smallest([row.id for row in view.reserve], wanted, view.seed, BENIGN_SELECTION)
        train = sorted((row for row in view.reserve if row.id in chosen), key=lambda row: row.id)
        return Defended(train, [], {"kept": len(train), "clean_rows_used": len(train)})


class EditDefense(Defense):
    """A defense that rewrites test texts and leaves the training, and so the undefended adapter, as it is."""

    def stages(self, build: Builder, rows: Stage) -> Stage:
        return build.evaluated(build.trained(rows), build.edited(build.tested(rows)))

    @abstractmethod
    def edit(self, rows: Sequence[Row], scores: Mapping[str, Scores]) -> list[str | None]:
        """The texts that the model reads in place of the rows' own; None where the edit failed and the text stays.

        Called once per suite with its rows and nothing that tells clean from triggered.
        """

    def trials(self, rows: Sequence[Row], scores: Mapping[str, Scores]) -> dict[str, list[str | None]]:
        """The edits that the defense chooses from, by name, on the reserved rows (phase `trial`)."""
        return {}

    def chosen(self, scores: Mapping[str, Scores]) -> dict[str, Any]:
        """What the defense chose, for the manifest."""
        return {}
