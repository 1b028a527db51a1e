"""Contract of a task: the source of its rows, the parsing of a row, the splits.

Answers are labels (`data.classification`) or text (`data.generation`).
"""

from abc import abstractmethod
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, ClassVar, Literal, Protocol, Self, TypeVar

from pydantic import Field, model_validator

from p2p_dist.config.study import Plugin, RowsSpec, added
from p2p_dist.data import cells, held_out, trusted_rows
from p2p_dist.data.answer_parsing import ResponseSpace
from p2p_dist.data.cells import LabelType
from p2p_dist.data.example import Example, Kind, RawRow, Turn, examples, rank, whole_text
from p2p_dist.errors import UserError, user_error


@dataclass(frozen=True)
class HubSource:
    """A data set on the Hugging Face hub."""

    id: str
    revision: str | None
    """Commit to which the task is pinned; None if the study must set `revision`."""
    columns: Mapping[str, str]
    """Columns on the hub by the key of a local row."""
    splits: Mapping[str, str]
    """Splits on the hub by `train` and `test`."""
    config: str | None = None
    """Configuration of the data set, where it has several."""


@dataclass(frozen=True)
class Split:
    """Rows of a run before attack and defense."""

    train: list[Example]
    reserve: set[str]
    """Ids of the trusted rows, a part of the training rows that the attacker does not poison."""
    test: list[Example]
    dropped: dict[str, int]
    """Counts of the source's rows that the run leaves out, by reason."""
    held_out: list[Example] = field(default_factory=list)
    """Labelled rows that no model is trained or judged on: the part `tune` (`rows.split: judge`), or `rows.dev`."""


class Task(Plugin):
    """Base of all tasks (see `ClassificationTask` and `GenerationTask`)."""

    plugin_kind: ClassVar[str] = "tasks"
    place_fields: ClassVar[tuple[str, ...]] = ("source", "revision")
    """Options that are places of rows. A digest of the rows is part of the identity in their stead."""
    files: ClassVar[Mapping[str, tuple[str, ...]]] = {"train": ("train.jsonl",), "test": ("test.jsonl",)}
    """Accepted file names of each split in a local folder."""
    trusted_files: ClassVar[tuple[str, ...]] = ()
    """Accepted names of a file of trusted rows in that folder; without a test file, test rows are then taken from the
    training file by content."""
    dev_files: ClassVar[tuple[str, ...]] = ("dev.jsonl",)
    """Accepted names of the file of the dev split in that folder, which is read where a study asks for `rows.dev`."""
    hub: ClassVar[HubSource | None] = None
    embedded: ClassVar[str | None] = None
    """Name of the embedded asset that holds the rows (see `p2p_dist.assets`)."""
    licence: ClassVar[str]
    metrics: ClassVar[tuple[str, ...]]
    """Metrics of the answers."""

    origins_known: ClassVar[bool] = True
    """False for rows whose origin nobody knows: they are never called clean."""
    names_labels: ClassVar[bool] = False
    """True if local rows have label names, to which the hub's numbers are then converted."""

    source: str | None = None
    """`embedded`, a folder with train.jsonl and test.jsonl, or one file, which is split by content. null:
    $P2P_DIST_DATA, then the hub."""
    revision: Annotated[str, Field(pattern=r"^[0-9a-f]{40}$")] | None = None
    """Commit of the data set on the hub, from which rows are then read; null: the task's pinned commit."""
    on_bad_row: Literal["refuse", "drop"] = added("refuse")
    """Rows that cannot be read: refuse stops the study; drop leaves them out, counts them and lists them in
    dropped.jsonl."""
    answer_cue: str = "Output: "
    """Text between a row's text and its answer."""

    @property
    def kind(self) -> Kind:
        """Kind of the answers."""
        return "classification" if self.responses is None else "generation"

    @property
    def labels(self) -> tuple[str, ...]:
        """Class names; empty where answers are text."""
        return ()

    @property
    def responses(self) -> ResponseSpace | None:
        """Rules for reading text answers, without attack and defense; None where answers are labels."""
        return None

    @property
    def unknown_labels(self) -> bool:
        """True if the labels must be collected from the rows (`with_labels`)."""
        return False

    def row_label(self, row: Mapping[str, Any]) -> str:
        """Name of a row's label, for a task whose labels are unknown. Raises ValueError for a bad row."""
        raise NotImplementedError

    def label_type(self, row: Mapping[str, Any]) -> LabelType | None:
        """Type of a good row's label cell, which is the same in all rows; None where answers are text."""
        return cells.label(row, "label")[1] if self.kind == "classification" and "label" in row else None

    def with_labels(self, labels: Iterable[str]) -> "Task":
        """The task with the labels of its rows, if they were unknown. Raises UserError."""
        return self

    @property
    def on_hub(self) -> bool:
        """True if the study asks for the hub's rows, whatever this machine has."""
        return self.revision is not None

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        if self.source is not None and self.on_hub:
            raise ValueError("rows come from source or from the hub (revision, dataset), not from both")
        return self

    @property
    def is_of_unknown_origin(self) -> bool:
        """True if nobody knows the origin of the rows: a task of own rows, or files that the study names."""
        return not self.origins_known or self.source not in (None, "embedded")

    @property
    def reads_images(self) -> bool:
        """True if rows have an image that the model must read."""
        return False

    @property
    def hub_source(self) -> HubSource | None:
        """The data set on the hub, at the commit of the study or the task."""
        return self.hub if self.hub is None or self.revision is None else replace(self.hub, revision=self.revision)

    @abstractmethod
    def check(self, row: Mapping[str, Any]) -> RawRow:
        """A row of a local file, parsed. Raises ValueError with a message for a bad row."""

    def from_hub(self, row: Mapping[str, Any]) -> Mapping[str, Any]:
        """A row of the hub's data set with the keys of a local file."""
        assert self.hub_source is not None
        return {key: row[column] for key, column in self.hub_source.columns.items()}

    def words(self, count: int) -> list[str]:
        """Words of the labels 0..count-1."""
        return []

    def split(self, raw: Mapping[str, Sequence[RawRow]], rows: RowsSpec, seed: int | None = None) -> Split:
        """Choose test, training and trusted rows by content, and by `seed` where `rows.seed` is `study`.

        Raises UserError E205 when there are too few.
        """
        draw = _Draw(rows.balanced, f"/{seed}" if rows.seed == "study" else "")
        if rows.order == "file" and (rows.train, rows.test, rows.reserve) != (None, None, 0):
            what = "rows.order: file takes all rows"
            raise user_error("E107", what, "rows", "remove rows.train, rows.test and rows.reserve")
        if "test" not in raw and rows.test is None:
            what = "the rows have no test split, and rows.test is not set"
            raise user_error("E205", what, "rows.test", "set rows.test to the number of test rows")
        splits = {
            name: [row if isinstance(row, RawRow) else RawRow(*row) for row in split] for name, split in raw.items()
        }
        trusted = trusted_rows.distinct(splits.pop(trusted_rows.TRUSTED, ()), rows)
        dev, splits["train"], lost = held_out.apart(splits, trusted, rows.dev, draw.take)
        given = len(splits["train"])
        splits["train"] = trusted_rows.without_texts_of(trusted, splits["train"])
        cut = _split_off if "test" in splits else _split_by_content
        test, pool, tune, dropped = cut(splits, rows, draw)
        train = examples([*draw.take(pool, rows.train, "train"), *trusted])
        candidates = trusted_rows.among(train, trusted) if trusted else train
        reserve = draw.take(candidates, rows.reserve, "reserve")
        counts = {
            **dropped,
            **lost,
            **({"text_of_a_trusted_row": given - len(splits["train"])} if trusted else {}),
            "beyond_rows_train": len(pool) + len(trusted) - len(train),
            "beyond_rows_test": len(splits["test"]) - len(test) if "test" in splits else 0,
        }
        return Split(train, {ex.id for ex in reserve}, examples(test), counts, examples([*tune, *dev]))


@dataclass(frozen=True)
class _Draw:
    """Choice of rows: balanced or not, and the suffix that a seed adds to the sort keys."""

    balanced: bool
    suffix: str

    def take(self, pool: "Sequence[Rowlike]", count: int | None, purpose: str) -> "list[Rowlike]":
        """`_take`, by this draw."""
        return _take(pool, count, self.balanced, purpose, self.suffix)


def _split_off(
    splits: Mapping[str, Sequence[RawRow]], rows: RowsSpec, draw: _Draw
) -> tuple[list[RawRow], list[RawRow], list[RawRow], dict[str, int]]:
    """Test rows, candidates for training, held-out rows, and dropped rows by reason, of a source with a test split."""
    part, apart = _part(splits["test"], rows)
    return draw.take(part, rows.test, "test"), list(splits["train"]), apart, {}


def _split_by_content(
    splits: Mapping[str, Sequence[RawRow]], rows: RowsSpec, draw: _Draw
) -> tuple[list[RawRow], list[RawRow], list[RawRow], dict[str, int]]:
    """As `_split_off`, of a source without a test split. No training row has the text of a test row, or of a row that
    is set apart for the other part of the test rows."""
    distinct = sorted(set(splits["train"]))
    part, apart = _part(distinct, rows)
    test = draw.take(part, rows.test, "test")
    test_texts = {whole_text(row) for row in [*test, *apart]}
    pool = [row for row in distinct if whole_text(row) not in test_texts]
    duplicates = len(splits["train"]) - len(distinct)
    dropped = {"duplicate": duplicates, "text_of_a_test_row": len(distinct) - len(pool) - len(test) - len(apart)}
    return test, pool, apart, dropped


def _part(pool: Sequence[RawRow], rows: RowsSpec) -> tuple[list[RawRow], list[RawRow]]:
    """Rows from which the test rows are drawn, and those that are held out of training and judging.

    The part `tune` has the rows that a study with as many test rows and no split has: settings were chosen on them.
    """
    if rows.split is None:
        return list(pool), []
    tune = _take(pool, rows.tune, rows.balanced, "test", option="tune")
    texts = {whole_text(row) for row in tune}
    judge = [row for row in pool if whole_text(row) not in texts]
    return (tune, []) if rows.split == "tune" else (judge, tune)


NO_GROUP = -1
"""Key of all rows where classes are not balanced."""


class _Rowlike(Protocol):
    @property
    def text(self) -> str: ...
    @property
    def label(self) -> int: ...
    @property
    def turns(self) -> tuple[Turn, ...]: ...


Rowlike = TypeVar("Rowlike", bound=_Rowlike)


def _take(
    pool: Sequence[Rowlike], count: int | None, balanced: bool, purpose: str, suffix: str = "", option: str = ""
) -> list[Rowlike]:
    """`count` rows with the smallest content hashes, if `balanced` the same number of every class; None: all rows.

    `suffix` makes other hashes, for draws that change with the seed; `option` is the key of `rows` that errors name.
    Raises UserError E205 when there are too few, or when they cannot be balanced.
    """
    option = option or purpose
    if count is None:
        return list(pool)
    if count == 0:
        return []
    ordered = sorted(pool, key=lambda row: (rank(whole_text(row), purpose + suffix), row.label))
    if not balanced:
        groups = {NO_GROUP: ordered}
    else:
        by_label: dict[int, list[Rowlike]] = defaultdict(list)
        for row in ordered:
            by_label[row.label].append(row)
        groups = dict(sorted(by_label.items()))
    if count % len(groups):
        what = f"{count} {purpose} rows do not divide evenly among {len(groups)} classes"
        fitting = f"set rows.{option}={count - count % len(groups)}, " if count >= len(groups) else ""
        fix = f"{fitting}choose a multiple of {len(groups)}, or set rows.balanced=false"
        raise user_error("E205", what, f"rows.{option}", fix)
    per_class = count // len(groups)
    too_small = {label: len(group) for label, group in groups.items() if len(group) < per_class}
    if too_small:
        raise _too_few(per_class, {label: len(group) for label, group in groups.items()}, option)
    return [row for group in groups.values() for row in group[:per_class]]


def _too_few(per_class: int, sizes: Mapping[int, int], purpose: str) -> UserError:
    """The error for classes with fewer rows than are asked for, with their sizes and the largest number that fits."""
    if NO_GROUP in sizes:
        what = f"{per_class:,} {purpose} rows are needed; there are {sizes[NO_GROUP]:,}"
        return user_error("E205", what, f"rows.{purpose}", f"set rows.{purpose}={sizes[NO_GROUP]}")
    small = [(size, label) for label, size in sizes.items() if size < per_class]
    classes = ", ".join(f"class {label} has {size:,}" for size, label in sorted(small)[:5])
    more = f" and {len(small) - 5} more" if len(small) > 5 else ""
    what = f"{per_class:,} {purpose} rows are needed of each class; {classes}{more}"
    fitting = min(sizes.values()) * len(sizes)
    fix = f"set rows.{purpose}={fitting} or rows.balanced=false, leave small classes out, or merge them"
    return user_error("E205", what, f"rows.{purpose}", fix)
