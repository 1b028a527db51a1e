"""The rows of a study as text and as JSON: counts, warnings, and a few rows of each origin, before and after."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from p2p_dist.config import training_axis
from p2p_dist.config.study import TrainSpec
from p2p_dist.data.built import Built
from p2p_dist.data.data_checks import warnings
from p2p_dist.data.example import NO_LABEL, Note, Row
from p2p_dist.data.prompts import answer
from p2p_dist.data.screening_stops import failure

_SAMPLES = 2
_SHOWN = 300


def to_json(
    built: Built, stage_id: str, trainings: Sequence[TrainSpec], prompt_of: Callable[[Row], str]
) -> dict[str, Any]:
    """Content of `p2p-dist data --json` for one data stage. `steps` are the optimizer steps of a training
    on its rows, by the label of the training where a study has several; `prompt_of` shows a row's prompt."""
    steps = [one.num_train_epochs * -(-len(built.train) // one.global_batch) for one in trainings]
    origins: dict[str, list[dict[str, Any]]] = {}
    for note, row in samples(built):
        origins.setdefault(note.origin, []).append(_sample(note, row, built.labels.words, prompt_of))
    return {
        "id": stage_id,
        "kind": built.kind,
        "rows": len(built.train),
        "steps": steps[0] if len(steps) == 1 else dict(zip(training_axis.labels(trainings), steps, strict=True)),
        "counts": built.counts,
        "warnings": warnings(built.counts),
        "checked_rows": len(built.reserve),
        "suites": {name: len(suite.rows) for name, suite in built.suites.items()},
        "classes": built.labels.names,
        "labels": built.labels.words,
        "samples": origins,
    }


def samples(built: Built) -> list[tuple[Note, Row]]:
    """The first rows of each origin."""
    notes_by_origin: dict[str, list[Note]] = {}
    for note in built.notes:
        notes = notes_by_origin.setdefault(note.origin, [])
        if len(notes) < _SAMPLES:
            notes.append(note)
    rows = {row.id: row for row in built.train}
    return [(note, rows[note.id]) for notes in notes_by_origin.values() for note in notes]


def text(title: str, record: Mapping[str, Any]) -> str:
    """Text of `p2p-dist data` for one data stage."""
    if record.get("waits"):
        return (
            f"{title}  (data {record['id']}): waits for what a model says about the rows; `p2p-dist run STUDY "
            "--rows-only` asks it"
        )
    counts = record["counts"]
    lines = [
        f"{title}  (data {record['id']}): "
        + (f"{record['rows']} training rows, {_steps(record['steps'])} steps" if record["rows"] else "test suites only")
    ]
    for origin, labels in counts.get("train", {}).items() if record["rows"] else ():
        lines.append(
            f"  {origin:9} "
            + ", ".join(f"{_name_of(label, record['labels'])}: {count}" for label, count in labels.items())
        )
    if record["classes"]:
        lines.append(
            "  classes   "
            + ", ".join(f"{word} = {name}" for word, name in zip(record["labels"], record["classes"], strict=False))
        )
    lines.append("  test rows " + ", ".join(f"{name}: {count}" for name, count in record["suites"].items()))
    by_reason = counts.get("dropped")  # a defense that drops rows counts them here as a number
    if dropped := {key: count for key, count in by_reason.items() if count} if isinstance(by_reason, dict) else {}:
        lines.append("  left out  " + ", ".join(f"{key}: {count}" for key, count in dropped.items()))
    if rest := {key: value for key, value in counts.items() if not isinstance(value, dict | list)}:
        lines.append("  counts    " + ", ".join(f"{key}: {value}" for key, value in rest.items()))
    lines += _screening_lines(counts)
    lines += [f"  warning: {warning}" for warning in record["warnings"]]
    for origin, rows in record["samples"].items():
        for row in rows:
            lines += [f"  {origin}" + (f" ({row['trigger']!r} at {row['position']})" if row["trigger"] else "")]
            lines += [
                f"    before  {_short(row['before'])} -> {_short(row['was'])}",
                f"    after   {_short(row['reads'])} -> {_short(row['answer'])}",
            ]
    lines += token_lines(record["tokens"]) if record.get("tokens") else []
    return "\n".join(lines)


def _screening_lines(counts: Mapping[str, Any]) -> list[str]:
    """The step at which each screening training stopped, and the number of trusted rows by origin."""
    lines = []
    for one in counts.get("screening", []):
        agreement = ", ".join(f"{share:.2f}" for share in one["agreement"])
        failed = f"; WARNING: {of_stop.reason}" if (of_stop := failure(one)) else ""
        if "prompts" in one:
            lines.append(f"  screened  share of answers likeliest behind their own prompt {agreement}{failed}")
        else:
            lines.append(f"  screened  stopped at step {one['step']}; agreement by class {agreement}{failed}")
    if trusted := {origin: sum(labels.values()) for origin, labels in counts.get("trusted", {}).items()}:
        lines.append(
            f"  trusted   {sum(trusted.values())} rows: "
            + ", ".join(f"{count} {origin}" for origin, count in trusted.items())
        )
    return lines


def token_lines(views: Sequence[Mapping[str, Any]]) -> list[str]:
    """Rows token by token: `|` stands between tokens, and what the model learns to say is set in brackets."""
    lines = []
    for view in views:
        cut = ", text cut to fit" if view["cut"] else ""
        lines.append(
            f"  {view['origin']} row in {len(view['prompt']) + len(view['answer'])} tokens of {view['model']}{cut}"
        )
        lines.append(
            "    "
            + "|".join(_shown(piece) for piece in view["prompt"])
            + " ["
            + "|".join(_shown(piece) for piece in view["answer"])
            + "]"
        )
    return lines


def _sample(note: Note, row: Row, words: Sequence[str], prompt_of: Callable[[Row], str]) -> dict[str, Any]:
    was = (note.old_response or row.response) if note.old_label == NO_LABEL else words[note.old_label]
    before = row.text if note.old_text is None else note.old_text
    after = {"reads": prompt_of(row), "answer": answer(row, words), "trigger": note.trigger, "position": note.position}
    return {"id": note.id, "source_id": note.source_id, "before": before, "was": was, **after}


def _steps(steps: int | Mapping[str, int]) -> str:
    """Steps of the study's trainings on these rows, as a range where they differ."""
    counts = sorted({steps} if isinstance(steps, int) else set(steps.values()))
    return " to ".join(str(count) for count in (counts[:1] + counts[-1:] if len(counts) > 1 else counts))


def _name_of(label: str, words: Sequence[str]) -> str:
    return f"label {words[int(label)]}" if label.isdigit() else label


def _shown(piece: str) -> str:
    return piece.replace("\n", "\\n")


def _short(text: str) -> str:
    """A text in quotes; of a long one its beginning and its end, where prompts and cues are."""
    return repr(text if len(text) <= _SHOWN else f"{text[: _SHOWN * 2 // 3]} ... {text[-_SHOWN // 3 :]}")
