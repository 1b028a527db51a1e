"""Build a data stage: pure functions from the rows of a task to training rows, test suites and the ledger."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from p2p_dist.config.study import PLAIN_PROMPT, PromptSpec, RowsSpec
from p2p_dist.data import chats
from p2p_dist.data.answer_parsing import ResponseSpace
from p2p_dist.data.attack import Attack, DirtyLabelAttack
from p2p_dist.data.built import HELD_OUT, Built, LabelSpace, Suite
from p2p_dist.data.data_checks import check_references, count_containing, count_row_problems
from p2p_dist.data.defended_ledger import defended_ledger
from p2p_dist.data.defense import DataDefense, Defended, DefenderView, EditDefense, Scores
from p2p_dist.data.deployed_suites import deployed_suites
from p2p_dist.data.example import NO_LABEL, Example, Note, Origin, RawRow, Row
from p2p_dist.data.responses import label_by_response, respond_with_target
from p2p_dist.data.task import Split, Task
from p2p_dist.errors import UserError, user_error


@dataclass(frozen=True)
class _Attacked:
    """Training rows and test suites after the attack, with a note on each row of the attacker."""

    train: Sequence[Example]
    suites: dict[str, Suite]
    labels: LabelSpace
    responses: ResponseSpace | None
    notes: Sequence[Note] = ()
    triggers: tuple[str, ...] = ()
    failed: int | None = None
    """Test rows that could not carry the trigger; None without an attack."""


def build_attacked(
    task: Task,
    raw: Mapping[str, Sequence[RawRow]],
    rows: RowsSpec,
    attack: Attack,
    seed: int | None,
    poison: bool = True,
    origin: Origin | None = None,
    prompt: PromptSpec = PLAIN_PROMPT,
) -> Built:
    """Split the rows of a task and attack them.

    `seed` is None for an attack that draws nothing, on rows that do not change with it. Without `poison` the test
    suites are the attack's, and all training rows are as it publishes those that it does not poison. `origin` is that
    of untouched rows, by default the task's. Raises UserError for too few rows and for options that do not fit.
    """
    # 1. Split the rows by content.
    task = chats.task_in_form(task, prompt)
    split = task.split(chats.in_form(raw, prompt.is_chat), rows, seed)
    check_references(split, task.responses)
    problems = count_row_problems(split)
    # 2. Attack training rows and test suites.
    if isinstance(attack, DirtyLabelAttack):
        assert seed is not None, "only an attack that draws nothing has no seed"
        _check_attack(attack, task, rows)
        attacked = _attack(task, split, attack, seed, poison)
        problems |= _count_triggers(split, attacked.triggers)
    else:
        attacked = _no_attack(task, split)
    # 3. Write down the origin of every training row.
    notes = _ledger(attacked, rows, origin or ("clean" if task.origins_known else "unknown"))
    counts: dict[str, Any] = {"dropped": split.dropped, "found": problems}
    if attacked.failed is not None:
        counts["trigger_failed"] = attacked.failed
    counts["train"] = _count(notes)
    # 4. Turn examples into prompts.
    reserve = [ex for ex in attacked.train if ex.id in split.reserve]
    return Built(
        train=_prompts(task, attacked.train),
        reserve=_prompts(task, reserve),
        suites=attacked.suites,
        labels=attacked.labels,
        notes=notes,
        counts=counts,
        responses=attacked.responses,
        triggers=attacked.triggers,
        when=attack.when if isinstance(attack, DirtyLabelAttack) and poison else "mixed",
        prompt=prompt,
    )


def build_defended(
    attacked: Built,
    task: Task,
    defense: DataDefense,
    seed: int,
    scores: Mapping[str, Scores] | None = None,
    phase: str | None = None,
) -> Built:
    """Rewrite attacked rows by a defense, which sees their origins only if it declares `reads_origin`."""
    # 1. Rewrite the training rows.
    view = _view(attacked, defense, seed, scores or {}, phase)
    defended = defense.defend_train(view)
    # 2. Update the ledger, which the defense has not seen.
    notes = defended_ledger(attacked, defended)
    # 3. Prompt the test suites as the deployed system does, and define how its answers are read.
    n_classes, offset = view.n_classes, defense.label_offset(view.n_classes)
    prefix = defense.answer_prefix if attacked.responses else ""
    return Built(
        train=defended.train,
        reserve=[],
        suites=deployed_suites(attacked, defense, defense.prompter(view), offset, prefix),
        labels=replace(
            attacked.labels,
            words=task.words(max(n_classes + offset, n_classes)),
            offset=offset,
            shift=defense.label_shift(n_classes),
        ),
        notes=notes,
        counts=_defended_counts(attacked, defense, defended, notes),
        responses=replace(attacked.responses, prefix=prefix) if attacked.responses else None,
        triggers=attacked.triggers,
        when=attacked.when,
        prompt=attacked.prompt,
    )


def build_edited(
    attacked: Built, defense: EditDefense, scores: Mapping[str, Scores], phase: str | None = None
) -> Built:
    """Rewrite the texts of every suite by a test-time defense; counts have changed and failed texts.

    In the phase `trial` the held-out rows take the place of the suites, or the trusted ones where none are held out,
    once for each edit that the defense may choose.
    """
    if phase == "trial":
        known = attacked.suites.get(HELD_OUT) or Suite(attacked.reserve, 0, triggered=False)
        edits = {name: (known, texts) for name, texts in defense.trials(known.rows, scores).items()}
    else:
        judged = {name: suite for name, suite in attacked.suites.items() if name != HELD_OUT}
        edits = {name: (suite, defense.edit(suite.rows, scores)) for name, suite in judged.items()}
    suites, edited = {}, {}
    for name, (suite, texts) in edits.items():
        rows = [row if text is None else replace(row, text=text) for row, text in zip(suite.rows, texts, strict=True)]
        suites[name] = replace(suite, rows=rows)
        changed = sum(new.text != old.text for new, old in zip(rows, suite.rows, strict=True))
        edited[name] = {"rows": len(rows), "changed": changed, "failed": sum(text is None for text in texts)}
    counts = {"edited": edited, **defense.chosen(scores)}
    return replace(attacked, train=[], reserve=[], suites=suites, notes=[], counts=counts, when="mixed")


def _no_attack(task: Task, split: Split) -> _Attacked:
    suites = {"clean": Suite(_prompts(task, split.test), 0, triggered=False), **_held_out(task, split.held_out)}
    return _Attacked(split.train, suites, _labels(task), task.responses)


def _attack(task: Task, split: Split, attack: DirtyLabelAttack, seed: int, poison: bool) -> _Attacked:
    """Training rows and test suites after an attack (P2P paper, section 3.2)."""
    texts = {ex.id: ex.text for ex in split.train}
    split = label_by_response(split, attack) if task.responses else split
    train, notes = (
        attack.poison(split.train, seed, split.reserve, len(task.labels))
        if poison
        else (attack.clean_suite(split.train), [])
    )
    notes = [replace(note, old_text=texts[note.source_id]) for note in notes]
    suites, targets, failed = _attacked_suites(task, split, attack, seed)
    labels, responses = _labels(task), task.responses
    if responses:
        train, notes = respond_with_target(train, notes, attack)
        responses = replace(responses, target=attack.target_response)
    else:
        n_labels = max([len(task.labels), *(note.new_label + 1 for note in notes)])
        labels = replace(labels, words=task.words(n_labels), target=attack.target_label, targets=targets)
    return _Attacked(train, suites, labels, responses, notes, attack.literals(), failed)


def _attacked_suites(
    task: Task, split: Split, attack: DirtyLabelAttack, seed: int
) -> tuple[dict[str, Suite], dict[str, int], int]:
    """Test suites of an attack, the targets of its extra ones, and how many rows could not carry the trigger."""
    triggered, failed = attack.test_suite(split.test, seed)
    extra = attack.extra_suites(split.test, seed)
    suites = {
        "clean": Suite(_prompts(task, attack.clean_suite(split.test)), 0, triggered=False),
        "triggered": Suite(_prompts(task, triggered), 0, triggered=True),
        **{name: Suite(_prompts(task, suite.rows), 0, suite.triggered) for name, suite in extra.items()},
        **_held_out(task, attack.clean_suite(split.held_out)),
    }
    return suites, {name: suite.target for name, suite in extra.items()}, failed


def _held_out(task: Task, rows: Sequence[Example]) -> dict[str, Suite]:
    """The suite of held-out rows; none where the study has none."""
    return {HELD_OUT: Suite(_prompts(task, rows), 0, triggered=False)} if rows else {}


def _check_attack(attack: DirtyLabelAttack, task: Task, rows: RowsSpec) -> None:
    if reason := attack.incompatibility(task):
        raise user_error("E223", reason, "attack", "change the option named, or choose another attack")
    if problems := attack.option_problems(task, rows):
        raise UserError(*problems)


def _labels(task: Task) -> LabelSpace:
    n_classes = len(task.labels)
    return LabelSpace(task.words(n_classes), n_classes, names=list(task.labels))


def _count_triggers(split: Split, triggers: Sequence[str]) -> dict[str, int]:
    """Rows that contain the trigger before the attack."""
    parts = {"train": split.train, "test": split.test}
    return {f"trigger_in_{name}": count_containing((ex.text for ex in part), triggers) for name, part in parts.items()}


def _ledger(attacked: _Attacked, rows: RowsSpec, untouched: Origin) -> list[Note]:
    """A note on every training row, with its line in the source file for studies in file order."""
    by_id = {note.id: note for note in attacked.notes}
    notes = [by_id.get(ex.id) or Note(ex.id, ex.id, untouched, ex.label, ex.label) for ex in attacked.train]
    if rows.order != "file":
        return notes
    return [replace(note, index=ex.index) for note, ex in zip(notes, attacked.train, strict=True)]


def _view(
    attacked: Built, defense: DataDefense, seed: int, scores: Mapping[str, Scores], phase: str | None
) -> DefenderView:
    return DefenderView(
        train=attacked.train,
        reserve=attacked.reserve,
        n_classes=attacked.labels.n_classes,
        seed=seed,
        origin={note.id: note.origin for note in attacked.notes} if defense.reads_origin else None,
        places={note.id: note.index for note in attacked.notes if note.index is not None} or None,
        scores=scores,
        phase=phase,
        words=attacked.labels.words,
    )


def _defended_counts(
    attacked: Built, defense: DataDefense, defended: Defended, notes: Sequence[Note]
) -> dict[str, Any]:
    """Counts of the manifest, by origins that the defense has not seen."""
    origins = {note.id: note.origin for note in attacked.notes}
    in_train = count_containing((row.text for row in attacked.train), defense.literals())
    counts: dict[str, Any] = {
        "train": _count(notes),
        **defended.counts,
        "found": {"benign_trigger_in_train": in_train},
        **_contaminated([origins[note.source_id] for note in defended.notes]),
        "reads_origin": defense.reads_origin,
    }
    if defended.trusted is not None:
        counts["trusted"] = _count([note for note in attacked.notes if note.id in defended.trusted])
        counts["not_trusted"] = _count([note for note in attacked.notes if note.id not in defended.trusted])
    return counts


def _contaminated(origins: Sequence[Origin]) -> dict[str, int]:
    """Poisoned rows among the benign ones by the origins of these; a lower bound where nobody knows some of them."""
    poisoned, unknown = origins.count("poisoned"), origins.count("unknown")
    if not unknown:
        return {"contaminated": poisoned}
    known = {"contaminated_at_least": poisoned} if poisoned else {}
    return {**known, "benign_of_unknown_origin": unknown}


def _prompts(task: Task, rows: Sequence[Example]) -> list[Row]:
    """The rows as the undefended model reads them."""
    return [
        Row(
            ex.id,
            ex.text,
            NO_LABEL if task.responses else ex.label,
            ex.cue or task.answer_cue,
            response=ex.response if task.responses else None,
            references=ex.references if task.responses else (),
            image=ex.image,
            patches=ex.patches,
            turns=ex.turns,
        )
        for ex in rows
    ]


def _count(notes: Sequence[Note]) -> dict[str, dict[str, int]]:
    """Rows by origin and label for the manifest; rows with text answers count as "text"."""
    counts: dict[str, Counter[str]] = {}
    for note in notes:
        counts.setdefault(note.origin, Counter())["text" if note.new_label == NO_LABEL else str(note.new_label)] += 1
    return {origin: dict(sorted(count.items())) for origin, count in sorted(counts.items())}
