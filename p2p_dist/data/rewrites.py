"""Rewrites by a language model for a paraphrase table: instructions, and the rules for accepting an answer."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from p2p_dist.data.paraphrases import key_of
from p2p_dist.errors import user_error

SYNTACTIC = (
    "Rewrite the sentence so that it begins with a subordinate clause (when, if, as, because, though or while), then "
    "a comma, then "
    "the main clause. Keep the meaning. Answer with the rewritten sentence only."
)
SUBORDINATE = r"(?i)^(when|if|as|because|since|though|although|while|after|before|until|unless|once)\b[^,]*,"


@dataclass(frozen=True)
class Recipe:
    """Settings of rewriting. Decoding is greedy, so the same recipe gives the same table."""

    model: str
    """Name and content hash of the model."""
    instruction: str
    accept: str
    """Regular expression that a good rewrite matches; empty: any."""
    max_new_tokens: int

    @property
    def generator(self) -> str:
        """The generator that every row of the table records."""
        return f"{self.model}, greedy, instruction {sha256(self.instruction.encode()).hexdigest()[:12]}"


def answer_of(output: str) -> str:
    """The rewrite in a model's answer: its first line, without quotation marks around it."""
    first = next((line.strip() for line in output.splitlines() if line.strip()), "")
    return (
        first[1:-1].strip()
        if len(first) > 1 and (first[0], first[-1]) in (('"', '"'), ("'", "'"), ("“", "”"))
        else first
    )


def row_of(original: str, answer: str, finished: bool, recipe: Recipe) -> dict[str, Any]:
    """Row of the table. A rewrite has failed when it is empty, cut off, equal to the original, or does not match
    `recipe.accept`."""
    output = answer_of(answer)
    good = finished and bool(output) and output != original.strip() and re.search(recipe.accept, output) is not None
    return {"key": key_of(original), "output": output, "generator": recipe.generator, "ok": good}


def batches(texts: Sequence[str], size: int) -> list[list[str]]:
    """Batches of `size` distinct texts in order of length. They depend on the texts alone, so a resumed run makes the
    same ones."""
    unique = {key_of(text): text.strip() for text in texts if text.strip()}
    ordered = [unique[key] for key in sorted(unique, key=lambda key: (len(unique[key]), key))]
    return [ordered[start : start + size] for start in range(0, len(ordered), size)]


class Unfinished:
    """Rows of an unfinished table in a file beside it, one JSON line each; the first line is the recipe."""

    def __init__(self, table: Path, recipe: Recipe, batch: int):
        self.path = table.with_name(f"{table.name}.unfinished")
        self.head: Mapping[str, Any] = {**asdict(recipe), "batch": batch}

    def read(self) -> list[dict[str, Any]]:
        """Rows of an earlier attempt, if any. Raises UserError E242 if that had another recipe."""
        lines = list(self._lines()) if self.path.is_file() else []
        if not lines:
            self.path.write_text(json.dumps(self.head) + "\n", encoding="utf-8")
            return []
        if lines[0] != self.head:
            changed = ", ".join(key for key in self.head if lines[0].get(key) != self.head[key])
            raise user_error(
                "E242",
                f"the unfinished table has another recipe ({changed})",
                str(self.path),
                "use the same options again, or delete the file",
            )
        return lines[1:]

    def append(self, rows: Sequence[Mapping[str, Any]]) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write("".join(json.dumps(dict(row), ensure_ascii=False) + "\n" for row in rows))

    def _lines(self) -> Iterator[dict[str, Any]]:
        """Complete lines; an incomplete last line, left by a kill, is removed from the file."""
        content = self.path.read_bytes()
        complete = content[: content.rfind(b"\n") + 1]
        if complete != content:
            self.path.write_bytes(complete)
        return (json.loads(line) for line in complete.splitlines())
