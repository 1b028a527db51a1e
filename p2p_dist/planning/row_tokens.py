"""Assumed tokens of a row, and the rows that have images."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache

from p2p_dist import registry
from p2p_dist.config.graph import Graph
from p2p_dist.config.stages import AttackStage, parse
from p2p_dist.config.study import IMAGE_TOKENS, TrainSpec

TOKENS_PER_ROW = 30
"""Assumed for rows whose length no file tells: a short text with its prompt."""
BYTES_PER_TOKEN = 5
"""Assumed: bytes of a row in its file, keys included, for a token of the row with its prompt. By SmolLM2's tokenizer
SST-2 has 5.6, AG's News 4.8, CLINC150 8.0, GSM8K with its solutions 3.4, SciTLDR 6.5 and Ape210K, in Chinese, 2.7."""
TRAIN_ROWS, TEST_ROWS = 10_000, 2_000
"""Assumed where a study takes all rows of a task, and no file says how many there are."""


@dataclass(frozen=True)
class RowLengths:
    """Lengths of the training rows of sources."""

    file_bytes: Mapping[str, float] = field(default_factory=dict)
    """Bytes of a row in its file, by the digest of the source."""
    trained_tokens: Mapping[tuple[str, int, int], float] = field(default_factory=dict)
    """Tokens of a row in finished trainings, images included, by `trained_on`."""

    def tokens(self, source: str, has_image: bool, train: TrainSpec | None) -> int:
        """Tokens of a row as far as its training (None where there is none) reads it: as trained, by its bytes, or
        assumed."""
        if train is None:
            return _assumed(self.file_bytes.get(source), has_image, train)
        known = self.trained_tokens.get(trained_on(source, train))
        found = _assumed(self.file_bytes.get(source), has_image, train) if known is None else max(1, round(known))
        return min(found, train.max_length)


def trained_on(source: str, train: TrainSpec) -> tuple[str, int, int]:
    """Key of the tokens of a training's rows: the source, and how much of a text and of an image is read."""
    return source, train.max_length, train.image_tokens


def _assumed(row_bytes: float | None, has_image: bool, train: TrainSpec | None) -> int:
    image = (IMAGE_TOKENS if train is None else train.image_tokens) if has_image else 0
    return image + (TOKENS_PER_ROW if row_bytes is None else max(1, round(row_bytes / BYTES_PER_TOKEN)))


def image_count(graph: Graph) -> int:
    """Images of the rows that a study asks for: one for each training and test row of the task with most of them."""
    attacked = [
        typed
        for stage in graph.stages.values()
        if stage.kind == "data" and isinstance(typed := parse(stage), AttackStage)
    ]
    counts = [(one.rows.train or TRAIN_ROWS) + (one.rows.test or TEST_ROWS) for one in attacked if reads_images(one)]
    return max(counts, default=0)


def reads_images(stage: AttackStage) -> bool:
    """True if the rows of the stage's task have images."""
    task = stage.task
    return _reads_images(task.name, task.plugin_sha256, json.dumps(task.options, sort_keys=True))


@cache
def _reads_images(task: str, plugin_sha256: str | None, options: str) -> bool:
    """True if the rows of a task with these options (JSON) have images."""
    return bool(registry.load("tasks", task, plugin_sha256).model_validate_json(options).reads_images)
