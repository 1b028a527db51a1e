"""Contract of a defense: the stages it needs, the training rows it rewrites, the test prompts it deploys.

A defense sees rows without their origin. A faithful copy of released code that must know which rows are poisoned
declares `reads_origin`, and the manifest records it.
"""

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar

from pydantic import Field

from p2p_dist.config.builder import Builder
from p2p_dist.config.graph import Stage
from p2p_dist.config.study import Plugin, Rate, RowsSpec, added
from p2p_dist.data.example import Kind, Note, Row, by_id, share, smallest
from p2p_dist.data.row_counts import RowCounts
from p2p_dist.data.task import Task
from p2p_dist.errors import UserError, user_error

Scores = Mapping[str, Mapping[str, Mapping[str, Any]]]
"""Result of a score stage: set of rows (`train`, `reserve` or the name of a suite) -> row id -> named numbers."""
BENIGN_SELECTION = "p2p.select"
"""Random stream that draws among trusted rows, one for all defenses, so that all are granted the same rows."""


@dataclass(frozen=True)
class DefenderView:
    """Everything that a defender sees: suspect training rows, trusted rows, the number of classes, a seed."""

    train: Sequence[Row]
    reserve: Sequence[Row]
    n_classes: int
    """Number of classes; 0 where answers are text."""
    seed: int
    origin: Mapping[str, str] | None = None
    """Origin by row id, only for a defense that declares `reads_origin`."""
    places: Mapping[str, int] | None = None
    """Line in the source file by row id, only in studies with `rows.order: file`."""
    scores: Mapping[str, Scores] = field(default_factory=dict)
    """Scores of these rows by models, by the role under which the defense asked for them."""
    phase: str | None = None
    """Name of the rewrite, for a defense that makes several."""
    words: Sequence[str] = ()
    """Label words of the run."""

    @property
    def counts(self) -> RowCounts:
        """Numbers of these rows."""
        return RowCounts.of(self.train, self.reserve, self.n_classes)


@dataclass(frozen=True)
class Defended:
    """Training rows after the defense, a note on every row that it added or changed, and counts for the manifest."""

    train: list[Row]
    notes: list[Note]
    counts: Mapping[str, Any]
    trusted: frozenset[str] | None = None
    """Ids of the training rows that the defender believes to be clean; None if it does not judge rows."""
    copies: Mapping[str, str] = field(default_factory=dict)
    """Further copies of training rows: their ids, each with that of the row that it repeats."""


@dataclass(frozen=True)
class Assumptions:
    """Assumptions of a defense, shown beside its results."""

    clean_rows: str = "none"
    """Clean labelled rows that it uses."""
    extra_models: str = "none"
    """Models other than the defended one."""
    prompt_control: bool = False
    """True if the deployed system must add something to every prompt."""
    decoding_control: bool = False
    """True if the deployed system must constrain its answers (to labels of the defense's own, or to a beginning) or map
    them back."""
    source: str = ""
    """Publication of the method, and the differences from it."""


class Defense(Plugin):
    """Base of the defenses in `defenses/`: fine-tune on the attacked rows unchanged, unless a subclass says more."""

    plugin_kind: ClassVar[str] = "defenses"
    default_assumptions: ClassVar[Assumptions] = Assumptions()
    """Assumptions with the default options (see `assumptions`)."""
    kinds: ClassVar[tuple[Kind, ...]] = ("classification", "generation")
    """Kinds of task that the defense supports."""
    blind: ClassVar[str | None] = None
    """Reason why the defense cannot be used on rows with images; None where it can."""

    further_steps: Annotated[int, Field(ge=1)] | None = added(None)
    """Persistence: steps of further training on clean rows, behind the defense and before the evaluation."""

    def assumptions(self) -> Assumptions:
        """Assumptions with the options at hand."""
        return self.default_assumptions

    def incompatibility(self, task: Task, attack: Plugin, rows: RowsSpec) -> str | None:
        """Reason why the defense cannot be combined with these, or None. Checked when a study is planned."""
        return None

    def shortage(self, counts: RowCounts) -> UserError | None:
        """Error for a defense that these attacked rows can never give, or None. Checked when a study is planned."""
        return None

    def stages(self, build: Builder, rows: Stage) -> Stage:
        """Add the stages that the defense needs over the attacked rows; return the one that evaluates the system."""
        return build.evaluated(build.trained(rows), rows)


class DataDefense(Defense):
    """Base of the defenses that rewrite training rows, and that may prompt, score and map labels in their own way."""

    kinds: ClassVar[tuple[Kind, ...]] = ("classification",)

    @property
    def reads_origin(self) -> bool:
        """True if the defense must know which rows are poisoned; only faithful copies of released code do."""
        return False

    @property
    def answer_prefix(self) -> str:
        """Text with which the deployed model begins every answer in generation tasks."""
        return ""

    def literals(self) -> tuple[str, ...]:
        """Fixed pieces of text that the defender adds to rows; rows that contain them already are counted."""
        return ()

    def stages(self, build: Builder, rows: Stage) -> Stage:
        defended = build.defended(rows)
        return build.evaluated(build.trained(defended), defended)

    @abstractmethod
    def defend_train(self, view: DefenderView) -> Defended:
        """Training rows after the defense, ordered by id. Must not depend on the order of the rows in `view`."""

    def defend_prompt(self, row: Row) -> Row:
        """A test row as the deployed model reads it, with its text, id and gold label unchanged."""
        return row

    def prompter(self, view: DefenderView) -> Callable[[Row], Row]:
        """Function that makes a test row a prompt of the deployed model: `defend_prompt`, unless the prompt depends on
        the rows that the defender sees."""
        return self.defend_prompt

    def probe_prompts(self, row: Row) -> Mapping[str, Row]:
        """A test row under further prompts, by name, to learn what the model does there; none of them is deployed.

        The triggered test texts are asked under each as suite `triggered.NAME`, and as they were before the attack as
        `control.NAME`.
        """
        return {}

    def label_offset(self, n_classes: int) -> int:
        """First of the deployed model's labels offset..offset+n-1; subtracting it maps them back."""
        return 0

    def label_shift(self, n_classes: int) -> int:
        """Shift of the deployed model's labels: class y is answered as offset + (y + shift) mod n."""
        return 0


class TrustedRows(DataDefense):
    """Base of the defenses that train on trusted rows alone: the rows that P2P is granted at the same ratio."""

    kinds: ClassVar[tuple[Kind, ...]] = ("classification", "generation")

    ratio: Rate = 0.2
    """Trusted rows as a share of the training rows."""

    def incompatibility(self, task: Task, attack: Plugin, rows: RowsSpec) -> str | None:
        return no_trusted_rows(rows, "it trains on trusted rows")

    def shortage(self, counts: RowCounts) -> UserError | None:
        """E205 where fewer rows are reserved than the ratio asks for."""
        count = self._trusted(counts.train)
        return (
            too_few_trusted_rows("the defense", count, "trusted", self.ratio, counts)
            if counts.reserve < count
            else None
        )

    def defend_train(self, view: DefenderView) -> Defended:
        if error := TrustedRows.shortage(self, view.counts):
            raise error
        count = self._trusted(len(view.train))
        chosen = smallest([row.id for row in view.reserve], count, view.seed, BENIGN_SELECTION)
        train = by_id(row for row in view.reserve if row.id in chosen)
        return Defended(train, [], {"kept": len(train), "clean_rows_used": len(train)})

    def _trusted(self, train: int) -> int:
        """Number of trusted rows for so many training rows."""
        return share(self.ratio, train)


class EditDefense(Defense):
    """Base of the defenses that rewrite test texts; the training, and so the undefended adapter, stays unchanged."""

    def stages(self, build: Builder, rows: Stage) -> Stage:
        return build.evaluated(build.trained(rows), build.edited(build.tested(rows)))

    @abstractmethod
    def edit(self, rows: Sequence[Row], scores: Mapping[str, Scores]) -> list[str | None]:
        """Texts that the model reads in place of the rows' own; None where the edit failed and the text stays.

        Called once per suite with its rows and nothing that tells clean from triggered.
        """

    def trials(self, rows: Sequence[Row], scores: Mapping[str, Scores]) -> dict[str, list[str | None]]:
        """Candidate edits of the trusted rows, by name, among which the defense chooses (phase `trial`)."""
        return {}

    def chosen(self, scores: Mapping[str, Scores]) -> dict[str, Any]:
        """The chosen settings, for the manifest."""
        return {}


def no_trusted_rows(rows: RowsSpec, use: str) -> str | None:
    """Incompatibility of a defense that uses trusted rows with a study that reserves none; `use` says what for."""
    return None if rows.reserve else f"{use}, and rows.reserve is 0"


def no_known_rows(rows: RowsSpec, use: str) -> str | None:
    """As `no_trusted_rows`, for rows to choose a threshold on, which may be held out instead."""
    return None if rows.split == "judge" or rows.dev else no_trusted_rows(rows, use)


def too_few_trusted_rows(name: str, count: int, role: str, ratio: float, counts: RowCounts) -> UserError:
    """The error for `count` rows needed (`ratio` of the training rows) and fewer reserved; `role` says what for."""
    return user_error(
        "E205",
        f"{name} needs {count:,} {role} rows (ratio {ratio:g} of {counts.train:,}); only {counts.reserve:,} "
        "trusted rows are reserved",
        "defense.ratio",
        f"set rows.reserve={count}",
    )


def injected(old: Row, new: Row, trigger: str) -> Note:
    """Ledger entry of a row that the defender made from another by adding a trigger of its own."""
    return Note(new.id, old.id, "injected", old.label, new.label, trigger, 0)
