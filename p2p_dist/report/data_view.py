"""The rows of a study in words and as facts: counts, and a few rows of each origin side by side."""

from collections.abc import Mapping, Sequence
from typing import Any

from p2p_dist.data.build import Built
from p2p_dist.data.prompts import answer, prompt

_SAMPLES = 2


def facts(built: Built, stage_id: str, batch: int, epochs: int) -> dict[str, Any]:
    """What `--json` prints for one data stage. `steps` are the optimiser steps of a training on its rows."""
    origins: dict[str, list[dict[str, str]]] = {}
    rows = {row.id: row for row in built.train}
    for note in built.notes:
        samples = origins.setdefault(note.origin, [])
        if len(samples) < _SAMPLES:
            row = rows[note.id]
            was = note.old_response or row.response or built.labels.words[note.old_label]
            samples.append({"id": note.id, "reads": prompt(row), "answer": answer(row, built.labels.words), "was": was})
    return {
        "id": stage_id,
        "rows": len(built.train),
        "steps": epochs * -(-len(built.train) // batch),
        "counts": built.counts,
        "checked_rows": len(built.reserve),
        "suites": {name: len(suite.rows) for name, suite in built.suites.items()},
        "labels": built.labels.words,
        "samples": origins,
    }


def text(title: str, found: Mapping[str, Any]) -> str:
    """What `p2p-dist data` prints for one data stage."""
    lines = [f"{title}  (data {found['id']}): {found['rows']} training rows, {found['steps']} steps"]
    for origin, labels in found["counts"]["train"].items():
        lines.append(f"  {origin:9} " + ", ".join(f"{_said(label, found['labels'])}: {count}" for label, count in labels.items()))
    rest = {key: value for key, value in found["counts"].items() if key != "train" and not isinstance(value, dict)}
    lines.append("  " + ", ".join(f"{key} {value}" for key, value in {**found["counts"].get("dropped", {}), **rest}.items()))
    lines.append("  test rows " + ", ".join(f"{name}: {count}" for name, count in found["suites"].items()))
    for origin, samples in found["samples"].items():
        lines += [f"    {origin:9} {sample['reads']!r} -> {sample['answer']!r} (was {sample['was']!r})" for sample in samples]
    return "\n".join(lines)


def _said(label: str, words: Sequence[str]) -> str:
    return f"label {words[int(label)]}" if label.isdigit() else label
