"""From a data stage to its files: pure functions from rows to rows, suites and the ledger."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from p2p_dist.config.study import RowsSpec
from p2p_dist.data.answer_parsing import ResponseSpace
from p2p_dist.data.attack import Attack, DirtyLabelAttack, ExtraSuite
from p2p_dist.data.data_checks import count_containing, count_row_problems
from p2p_dist.data.defense import DataDefense, DefenderView, EditDefense, Scores
from p2p_dist.data.example import NO_LABEL, Example, Kind, Note, RawRow, Row
from p2p_dist.data.responses import marked, responded
from p2p_dist.data.task import Task
from p2p_dist.errors import user_error


@dataclass(frozen=True)
class LabelSpace:
    """How answers are read: the words of all labels, how many classes, and where the deployed labels begin."""

    words: list[str]
    n_classes: int
    offset: int = 0
    target: int | None = None
    """The attacker's target label; None without an attack."""
    targets: Mapping[str, int] = field(default_factory=dict)
    """The target of every suite that has one of its own."""
    names: list[str] = field(default_factory=list)
    """What the classes are called."""
    shift: int = 0
    """Class y is answered as offset + (y + shift) mod n: how PDB permutes labels."""


@dataclass(frozen=True)
class Suite:
    """Test rows and how to read them: labels offset..offset+n-1 are the deployed ones for these prompts."""

    rows: list[Row]
    offset: int
    triggered: bool
    prefix: str = ""
    """What answers to these prompts begin with, where answers are text; stripped before they are judged."""


@dataclass(frozen=True)
class Built:
    """A finished data stage, still in memory."""

    train: list[Row]
    reserve: list[Row]
    suites: dict[str, Suite]
    labels: LabelSpace
    notes: list[Note]
    counts: dict[str, Any] = field(default_factory=dict)
    responses: ResponseSpace | None = None
    """How answers are read where they are text; None where they are labels, which `labels` is for."""
    triggers: tuple[str, ...] = ()
    """Fixed pieces of text that the attacker's triggers are made of; no defender is told, and no tokenizer cuts them
    off."""

    @property
    def kind(self) -> Kind:
        """How the rows are answered."""
        return "classification" if self.responses is None else "generation"


def build_attacked(
    task: Task,
    raw: Mapping[str, Sequence[RawRow]],
    rows: RowsSpec,
    attack: Attack,
    seed: int | None,
    poison: bool = True,
) -> Built:
    """Split the task and let the attacker at it. `seed` is None when the attack draws nothing. Without `poison` the
    test suites are the attack's, and the training rows are all as it leaves those that it does not poison."""
    split = task.split(raw, rows)
    n = len(task.labels)
    train, notes = split.train, list[Note]()
    counts: dict[str, Any] = {"dropped": split.dropped, "found": count_row_problems(split)}
    suites = {"clean": Suite(_rows(task, split.test), 0, triggered=False)}
    space, responses = LabelSpace(task.words(n), n, names=list(task.labels)), task.responses
    triggers: tuple[str, ...] = ()
    if isinstance(attack, DirtyLabelAttack):
        assert seed is not None
        _check(attack, task, rows)
        triggers = attack.literals()
        for name, examples in (("train", split.train), ("test", split.test)):
            counts["found"][f"trigger_in_{name}"] = count_containing((ex.text for ex in examples), triggers)
        split = marked(split, attack) if responses else split
        train, notes = (
            attack.poison(split.train, seed, split.reserve, n) if poison else (attack.clean_suite(split.train), [])
        )
        texts = {ex.id: ex.text for ex in split.train}
        notes = [replace(note, old_text=texts[note.source_id]) for note in notes]
        triggered, counts["trigger_failed"] = attack.test_suite(split.test, seed)
        more = attack.extra_suites(split.test, seed)
        suites = _test_suites(task, attack.clean_suite(split.test), triggered, more)
        if responses:
            train, notes = responded(train, notes, attack)
            responses = replace(responses, target=attack.target_response)
        else:
            used = 1 + max((note.new_label for note in notes), default=0)
            targets = {name: suite.target for name, suite in more.items()}
            space = replace(space, words=task.words(max(n, used)), target=attack.target_label, targets=targets)
    ledger = {note.id: note for note in notes}
    notes = [ledger.get(ex.id) or Note(ex.id, ex.id, "clean", ex.label, ex.label) for ex in train]
    if rows.order == "file":
        notes = [replace(note, index=ex.index) for note, ex in zip(notes, train, strict=True)]
    counts["train"] = _count(notes)
    reserve = [ex for ex in train if ex.id in split.reserve]
    return Built(_rows(task, train), _rows(task, reserve), suites, space, notes, counts, responses, triggers)


def _check(attack: DirtyLabelAttack, task: Task, rows: RowsSpec) -> None:
    n_classes = len(task.labels)
    if why := attack.incompatibility(task):
        raise user_error("E223", why, "attack")
    if attack.poison_selection == "first" and rows.order != "file":
        raise user_error(
            "E107", "poison_selection: first needs rows in file order", "attack.poison_selection", "rows.order=file"
        )
    for aim in attack.target_labels() if n_classes else ():
        if not 0 <= aim < n_classes:
            raise user_error(
                "E107",
                f"target_label {aim} is none of {n_classes} classes",
                "attack.target_label",
                f"0 to {n_classes - 1}",
            )


def _test_suites(
    task: Task, clean: Sequence[Example], triggered: Sequence[Example], more: Mapping[str, ExtraSuite]
) -> dict[str, Suite]:
    suites = {
        "clean": Suite(_rows(task, clean), 0, triggered=False),
        "triggered": Suite(_rows(task, triggered), 0, triggered=True),
    }
    return suites | {name: Suite(_rows(task, suite.rows), 0, suite.triggered) for name, suite in more.items()}


def build_defended(
    attacked: Built,
    task: Task,
    defense: DataDefense,
    seed: int,
    scores: Mapping[str, Scores] | None = None,
    phase: str | None = None,
) -> Built:
    """Let the defender rewrite attacked rows. Origins are handed over only to a defense that declares it reads them."""
    origin = {note.id: note.origin for note in attacked.notes} if defense.reads_origin else None
    space = attacked.labels
    places = {note.id: note.index for note in attacked.notes if note.index is not None}
    done = defense.defend_train(
        DefenderView(
            attacked.train, attacked.reserve, space.n_classes, seed, origin, places or None, scores or {}, phase
        )
    )
    before = {note.id: note for note in attacked.notes}
    after = {note.id: note for note in done.notes}
    notes = [after.get(row.id) or before[row.id] for row in done.train]
    notes = [
        note if note.index == (place := before[note.source_id].index) else replace(note, index=place) for note in notes
    ]
    offset, prefix = defense.label_offset(space.n_classes), defense.answer_prefix if attacked.responses else ""
    suites = {}
    for name, suite in attacked.suites.items():
        suites[name] = Suite([defense.defend_prompt(row) for row in suite.rows], offset, suite.triggered, prefix)
        if name in ("clean", "triggered") and suites[name] != suite:
            suites[f"{name}_nobt"] = suite
    contaminated = sum(before[note.source_id].origin == "poisoned" for note in done.notes)
    found = {"benign_trigger_in_train": count_containing((row.text for row in attacked.train), defense.literals())}
    counts = {
        "train": _count(notes),
        **done.counts,
        "found": found,
        "contaminated": contaminated,
        "reads_origin": defense.reads_origin,
    }
    if done.trusted is not None:
        counts["trusted"] = _count([note for note in attacked.notes if note.id in done.trusted])
        counts["not_trusted"] = _count([note for note in attacked.notes if note.id not in done.trusted])
    shift = defense.label_shift(space.n_classes)
    labels = replace(
        space, words=task.words(max(space.n_classes + offset, space.n_classes)), offset=offset, shift=shift
    )
    responses = replace(attacked.responses, prefix=prefix) if attacked.responses else None
    return Built(done.train, [], suites, labels, notes, counts, responses, attacked.triggers)


def build_edited(
    attacked: Built, defense: EditDefense, scores: Mapping[str, Scores], phase: str | None = None
) -> Built:
    """Let a test-time defense rewrite the texts of every suite; counts say how many changed and where the edit failed.

    In the phase `trial` the reserved rows stand in for the suites, once for each edit that the defense may choose.
    """
    if phase == "trial":
        before = Suite(attacked.reserve, 0, triggered=False)
        edits = {name: (before, texts) for name, texts in defense.trials(attacked.reserve, scores).items()}
    else:
        edits = {name: (suite, defense.edit(suite.rows, scores)) for name, suite in attacked.suites.items()}
    suites, counts = {}, {}
    for name, (suite, texts) in edits.items():
        rows = [row if text is None else replace(row, text=text) for row, text in zip(suite.rows, texts, strict=True)]
        suites[name] = replace(suite, rows=rows)
        changed = sum(new.text != old.text for new, old in zip(rows, suite.rows, strict=True))
        counts[name] = {"rows": len(rows), "changed": changed, "failed": sum(text is None for text in texts)}
    facts = {"edited": counts, **defense.chosen(scores)}
    return Built([], [], suites, attacked.labels, [], facts, attacked.responses, attacked.triggers)


def _rows(task: Task, rows: Sequence[Example]) -> list[Row]:
    """The rows as the undefended model meets them."""
    return [
        Row(
            ex.id,
            ex.text,
            NO_LABEL,
            ex.cue or task.answer_cue,
            response=ex.response,
            references=ex.references,
            image=ex.image,
        )
        if task.responses
        else Row(ex.id, ex.text, ex.label, ex.cue or task.answer_cue, image=ex.image)
        for ex in rows
    ]


def _count(notes: Sequence[Note]) -> dict[str, dict[str, int]]:
    """Rows by origin and label, as the manifest shows them; rows that are answered with text count as "text"."""
    table: dict[str, Counter[str]] = {}
    for note in notes:
        table.setdefault(note.origin, Counter())["text" if note.new_label == NO_LABEL else str(note.new_label)] += 1
    return {origin: dict(sorted(count.items())) for origin, count in sorted(table.items())}
