"""Rows as files that other trainers read: a prompt and its completion per line, rendered as training renders them."""

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from p2p_dist.data.built import Built
from p2p_dist.data.example import Row
from p2p_dist.data.prompts import answer
from p2p_dist.results import atomic
from p2p_dist.results.rundir import StageDir


def write(folder: Path, stage: StageDir, built: Built, prompt_of: Callable[[Row], str]) -> None:
    """Write `train.jsonl` and `test_SUITE.jsonl` with the keys id, prompt and completion (image and patches where a row
    has them), and copies of the manifest and of the ledger, which tells origins. `prompt_of` renders a row's prompt.
    The folder appears whole."""
    with atomic.new_folder(folder) as partial:
        (partial / "train.jsonl").write_bytes(_lines(built.train, built.labels.words, prompt_of))
        for name, suite in built.suites.items():
            (partial / f"test_{name}.jsonl").write_bytes(_lines(suite.rows, built.labels.words, prompt_of))
        for file in (stage.manifest, stage.path / "ledger.jsonl"):
            shutil.copyfile(file, partial / file.name)


def _lines(rows: Sequence[Row], words: Sequence[str], prompt_of: Callable[[Row], str]) -> bytes:
    rendered = (_rendered(row, words, prompt_of) for row in rows)
    return "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in rendered).encode()


def _rendered(row: Row, words: Sequence[str], prompt_of: Callable[[Row], str]) -> dict[str, object]:
    rendered = {"id": row.id, "prompt": prompt_of(row), "completion": answer(row, words)}
    image = {} if row.image is None else {"image": row.image}
    return {**rendered, **image, **({"patches": list(row.patches)} if row.patches else {})}
