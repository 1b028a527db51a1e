"""Invented labelled sentences and sums, alone and as a folder of task files. Imports nothing of the project."""

import json
from pathlib import Path
from random import Random


def sentences(count: int, seed: int = 0) -> list[dict[str, str | int]]:
    """Rows of invented text whose label can be read off two of its words."""
    random = Random(seed)
    words = {
        0: ["bad", "dull", "poor", "awful", "bland", "cold"],
        1: ["good", "fine", "lovely", "warm", "superb", "fresh"],
    }
    filler = ["the", "film", "is", "a", "story", "of", "people", "and", "places", "with", "music", "by", "night"]
    rows: list[dict[str, str | int]] = []
    for at in range(count):
        label = at % 2
        text = random.choices(filler, k=7) + random.choices(words[label], k=2)
        random.shuffle(text)
        rows.append({"text": " ".join([*text, str(at)]), "label": label})
    return rows


def write_rows(root: Path) -> None:
    """Make `root` a `$P2P_DIST_DATA` with invented rows for two tasks, and captions whose images are missing."""
    for task in ("rotten_tomatoes", "sst2"):
        for split, count, seed in (("train", 240, 1), ("test", 60, 2)):
            path = root / task / f"{split}.jsonl"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("".join(json.dumps(row) + "\n" for row in sentences(count, seed)))
    (root / "hateful_memes").mkdir(exist_ok=True)
    for split in ("train", "dev"):
        captions = [json.dumps({**row, "img": "img/missing.png"}) + "\n" for row in sentences(60)]
        (root / "hateful_memes" / f"{split}.jsonl").write_text("".join(captions))


def write_sums(root: Path, train: range, test: range = range(20)) -> None:
    """Make `root` a `$P2P_DIST_DATA` with invented sums for `gsm8k`, one for each of the numbers."""
    (root / "gsm8k").mkdir(parents=True, exist_ok=True)
    for split, numbers in (("train", train), ("test", test)):
        rows = [
            {"text": f"a box of {n} and a box of {n + 1}", "solution": f"{n} + {n + 1}", "answer": str(2 * n + 1)}
            for n in numbers
        ]
        (root / "gsm8k" / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
