"""The contract of a task: where its rows come from, how a row is read, how many make a split.

A task is answered with labels (`data.classification`) or with text (`data.generation`).
"""

from abc import abstractmethod
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Protocol, Self, TypeVar

from pydantic import Field, model_validator

from p2p_dist.config.study import Plugin, RowsSpec
from p2p_dist.data.answer_parsing import ResponseSpace
from p2p_dist.data.example import Example, Kind, RawRow, examples, rank
from p2p_dist.errors import user_error


@dataclass(frozen=True)
class HubSource:
    """A data set on the Hugging Face hub."""

    id: str
    revision: str | None
    """The commit that this task is pinned to; None where none is known, and a study then has to name one."""
    columns: Mapping[str, str]
    """Keys of a local row -> columns on the hub."""
    splits: Mapping[str, str]
    config: str | None = None


@dataclass(frozen=True)
class Split:
    """The rows of a run before anybody touches them, and what was left out on the way."""

    train: list[Example]
    reserve: set[str]
    """Ids of the training rows that the defender has checked."""
    test: list[Example]
    dropped: dict[str, int]
    """Rows that the source has and the run has not, by reason."""


class Task(Plugin):
    """Base of all tasks."""

    plugin_kind: ClassVar[str] = "tasks"
    place_fields: ClassVar[tuple[str, ...]] = ("source", "revision")
    """Options that say where rows are. What they hold is in the identity as a digest, and they are not."""
    files: ClassVar[Mapping[str, tuple[str, ...]]] = {"train": ("train.jsonl",), "test": ("test.jsonl",)}
    """Names that a split's file may have in a local folder."""
    hub: ClassVar[HubSource | None] = None
    embedded: ClassVar[str | None] = None
    """Name of the embedded asset that holds the rows (see `p2p_dist.assets`)."""
    licence: ClassVar[str]
    metrics: ClassVar[tuple[str, ...]]
    """What the answers are judged by."""

    names_labels: ClassVar[bool] = False
    """Whether labels are called by name in local rows, so that the hub's numbers are turned into names."""

    source: str | None = None
    """`embedded`, a folder with train.jsonl and test.jsonl, or one file that is then split by content.
    null: $P2P_DIST_DATA, then the hub."""
    revision: Annotated[str, Field(pattern=r"^[0-9a-f]{40}$")] | None = None
    """Commit of the data set on the hub, which is then where rows are read; null: the one that the task is pinned
    to."""
    answer_cue: str = "Output: "
    """What stands between a text and its answer."""

    @property
    def kind(self) -> Kind:
        """What the task is answered with."""
        return "classification" if self.responses is None else "generation"

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the classes; none where answers are text."""
        return ()

    @property
    def responses(self) -> ResponseSpace | None:
        """How answers are read where they are text, before anybody attacks or defends; None where they are labels."""
        return None

    @property
    def unknown_labels(self) -> bool:
        """Whether the labels have to be looked up in the rows."""
        return False

    def with_labels(self, rows: Iterable[Mapping[str, Any]]) -> "Task":
        """The task with the labels of its rows, where they were unknown. Raises UserError."""
        return self

    @property
    def on_hub(self) -> bool:
        """Whether the study asks for the hub's rows, whatever is on this machine."""
        return self.revision is not None

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        if self.source is not None and self.on_hub:
            raise ValueError("rows come from source or from the hub (revision, dataset), not from both")
        return self

    @property
    def reads_images(self) -> bool:
        """Whether rows carry an image that the model has to read."""
        return False

    @property
    def hub_source(self) -> HubSource | None:
        """The data set on the hub, at the commit that the study or the task names."""
        return self.hub if self.hub is None or self.revision is None else replace(self.hub, revision=self.revision)

    @abstractmethod
    def check(self, row: Mapping[str, Any]) -> RawRow:
        """A row of a local file. Raises ValueError in words."""

    def from_hub(self, row: Mapping[str, Any]) -> Mapping[str, Any]:
        """A row of the hub's data set as a row of a local file."""
        assert self.hub_source is not None
        return {ours: row[theirs] for ours, theirs in self.hub_source.columns.items()}

    def words(self, count: int) -> list[str]:
        """The words of labels 0..count-1."""
        return []

    def split(self, raw: Mapping[str, Sequence[RawRow]], rows: RowsSpec) -> Split:
        """Choose the test, reserve and train rows by content. Raises UserError E205 when there are too few."""
        if rows.order == "file" and (rows.train, rows.test, rows.reserve) != (None, None, 0):
            raise user_error("E107", "rows.order: file takes all rows", "rows", "leave train, test and reserve out")
        dropped: dict[str, int] = {}
        raw = {
            split: [row if isinstance(row, RawRow) else RawRow(*row) for row in found] for split, found in raw.items()
        }
        if "test" in raw:
            pools = {"test": list(raw["test"]), "train": list(raw["train"])}
        elif rows.test is None:
            raise user_error(
                "E205", "these rows have no test split of their own", "rows.test", "say how many rows to test on"
            )
        else:
            unique = sorted(set(raw["train"]))
            dropped["duplicate"] = len(raw["train"]) - len(unique)
            pools = {"test": unique, "train": unique}
        test = _take(pools["test"], rows.test, rows.balanced, "test")
        if "test" not in raw:
            taken = {row.text for row in test}
            rest = [row for row in pools["train"] if row.text not in taken]
            dropped["text_of_a_test_row"] = len(pools["train"]) - len(rest) - len(test)
            pools["train"] = rest
        train = examples(_take(pools["train"], rows.train, rows.balanced, "train"))
        reserve = _take(train, rows.reserve, rows.balanced, "reserve")
        dropped["beyond_rows_train"] = len(pools["train"]) - len(train)
        dropped["beyond_rows_test"] = len(pools["test"]) - len(test) if "test" in raw else 0
        return Split(train, {ex.id for ex in reserve}, examples(test), dropped)


class _Rowlike(Protocol):
    @property
    def text(self) -> str: ...
    @property
    def label(self) -> int: ...


Rowlike = TypeVar("Rowlike", bound=_Rowlike)


def _take(pool: Sequence[Rowlike], count: int | None, balanced: bool, purpose: str) -> list[Rowlike]:
    """`count` rows with the smallest content hashes, the same number from every class if `balanced` and there are
    classes."""
    if count is None:
        return list(pool)
    if count == 0:
        return []
    ordered = sorted(pool, key=lambda row: (rank(row.text, purpose), row.label))
    if not balanced:
        groups = {-1: ordered}
    else:
        by_label: dict[int, list[Rowlike]] = defaultdict(list)
        for row in ordered:
            by_label[row.label].append(row)
        groups = dict(sorted(by_label.items()))
    if count % len(groups):
        raise user_error(
            "E205",
            f"{count} {purpose} rows do not divide evenly over {len(groups)} classes",
            "rows",
            "a multiple, or rows.balanced=false",
        )
    each = count // len(groups)
    short = {label: len(group) for label, group in groups.items() if len(group) < each}
    if short:
        raise user_error(
            "E205", f"wanted {each} {purpose} rows of each class, found {short} (label: rows)", "rows", "fewer rows"
        )
    return [row for group in groups.values() for row in group[:each]]
