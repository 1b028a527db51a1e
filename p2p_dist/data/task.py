"""The contract of a task: where its rows come from, what its labels are called, how many make a split."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from p2p_dist.data.example import Example, examples, rank
from p2p_dist.data.tables import RawRow
from p2p_dist.errors import user_error
from p2p_dist.spec.study import Plugin, RowsSpec


@dataclass(frozen=True)
class HubSource:
    """A data set on the Hugging Face hub, pinned to a commit."""

    id: str
    revision: str
    text: str
    label: str
    splits: Mapping[str, str]


@dataclass(frozen=True)
class Split:
    """The rows of a run before anybody touches them, and what was left out on the way."""

    train: list[Example]
    reserve: set[str]
    """Ids of the training rows that the defender has checked."""
    test: list[Example]
    dropped: dict[str, int]


class Task(Plugin):
    """Base of the classification tasks in `tasks/`."""

    plugin_kind: ClassVar[str] = "tasks"
    class_names: ClassVar[tuple[str, ...]] = ()
    """Class names; the position is the label."""
    files: ClassVar[Mapping[str, tuple[str, ...]]] = {"train": ("train.jsonl",), "test": ("test.jsonl",)}
    """Names that a split's file may have in a local folder."""
    hub: ClassVar[HubSource | None] = None
    embedded: ClassVar[str | None] = None
    """Name of the embedded asset that holds the rows (see `p2p_dist.assets`)."""
    licence: ClassVar[str]

    source: str | None = None
    """`embedded`, a folder with train.jsonl and test.jsonl (keys text, label), or one file that is then split by content.
    null: $P2P_DIST_DATA, then the hub."""
    verbalizer: Literal["numeric", "letters"] = "numeric"
    """Label words: 0, 1, ... or A, B, ... (reference: paper Table 7; letters stay one token beyond ten labels)."""
    answer_cue: str = "Output: "
    """What stands between a text and its label."""

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the classes."""
        return self.class_names

    def check(self, row: Mapping[str, Any]) -> RawRow:
        """A row of a local file as (text, label). Raises ValueError in words."""
        text, label = row.get("text"), row.get("label")
        if not isinstance(text, str) or not text.strip():
            raise ValueError("key 'text' is missing, empty or not text")
        number = int(label) if isinstance(label, str) and label.isdigit() else label
        if not isinstance(number, int) or isinstance(number, bool) or not 0 <= number < len(self.labels):
            raise ValueError(f"label {label!r} is not one of the {len(self.labels)} classes")
        return text.strip(), number

    def words(self, count: int) -> list[str]:
        """The words of labels 0..count-1."""
        if self.verbalizer == "numeric":
            return [str(label) for label in range(count)]
        return [chr(ord("A") + label) for label in range(count)]

    def split(self, raw: Mapping[str, Sequence[RawRow]], rows: RowsSpec) -> Split:
        """Choose the test, reserve and train rows by content. Raises UserError E205 when there are too few."""
        if rows.order == "file" and (rows.train, rows.test, rows.reserve) != (None, None, 0):
            raise user_error("E107", "rows.order: file takes all rows", "rows", "leave train, test and reserve out")
        dropped: dict[str, int] = {}
        if "test" in raw:
            pools = {"test": list(raw["test"]), "train": list(raw["train"])}
        elif rows.test is None:
            raise user_error("E205", "these rows have no test split of their own", "rows.test", "say how many rows to test on")
        else:
            unique = sorted(set(raw["train"]))
            dropped["duplicate"] = len(raw["train"]) - len(unique)
            pools = {"test": unique, "train": unique}
        test = _take(pools["test"], rows.test, rows.balanced, "test")
        if "test" not in raw:
            taken = {text for text, _ in test}
            pools["train"] = [row for row in pools["train"] if row[0] not in taken]
        train = examples(_take(pools["train"], rows.train, rows.balanced, "train"))
        reserve = _take([(ex.text, ex.label) for ex in train], rows.reserve, rows.balanced, "reserve")
        dropped["train_text_in_test"] = len({ex.text for ex in train} & {text for text, _ in test})
        return Split(train, {ex.id for ex in examples(reserve)}, examples(test), dropped)


def _take(pool: Sequence[RawRow], count: int | None, balanced: bool, purpose: str) -> list[RawRow]:
    """`count` rows with the smallest content hashes, the same number from every class if `balanced`."""
    if count is None:
        return list(pool)
    if count == 0:
        return []
    ordered = sorted(pool, key=lambda row: (rank(row[0], purpose), row[1]))
    if not balanced:
        groups = {-1: ordered}
    else:
        by_label: dict[int, list[RawRow]] = defaultdict(list)
        for row in ordered:
            by_label[row[1]].append(row)
        groups = dict(sorted(by_label.items()))
    if count % len(groups):
        raise user_error("E205", f"{count} {purpose} rows do not divide evenly over {len(groups)} classes", "rows", "a multiple, or rows.balanced=false")
    each = count // len(groups)
    short = {label: len(group) for label, group in groups.items() if len(group) < each}
    if short:
        raise user_error("E205", f"wanted {each} {purpose} rows of each class, found {short} (label: rows)", "rows", "fewer rows")
    return [row for group in groups.values() for row in group[:each]]
