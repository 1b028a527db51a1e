"""Assumed tokens of a row, the longest text answer, and the rows that have images."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from p2p_dist import registry
from p2p_dist.config.graph import Graph
from p2p_dist.config.stages import AttackStage, DefenseStage, PluginSpec, parse
from p2p_dist.config.study import IMAGE_TOKENS, RowsSpec, TrainSpec

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
    """Images that a job of a study reads at most, for the rows of the task with most of them: one for each row, and for
    a test row one more with the patch of an attack, with that of a defense, and with both."""
    stages = [parse(stage) for stage in graph.stages.values() if stage.kind == "data"]
    attacked = [stage for stage in stages if isinstance(stage, AttackStage) and reads_images(stage)]
    if not attacked:
        return 0
    attacks = [_plugin("attacks", stage.attack) for stage in attacked]
    defenses = [_plugin("defenses", stage.defense) for stage in stages if isinstance(stage, DefenseStage)]
    kinds = 1
    for plugins in (attacks, defenses):
        kinds *= 2 if any(plugin.patches_images for plugin in plugins) else 1
    return max(_image_rows(stage.rows, kinds) for stage in attacked)


def answer_tokens(stage: AttackStage | None) -> int:
    """Most tokens of a text answer to the rows of a task; 0 where answers are labels."""
    responses = _plugin("tasks", stage.task).responses if stage is not None else None
    return responses.max_new_tokens if responses is not None else 0


def _image_rows(rows: RowsSpec, kinds: int) -> int:
    """Rows with an image of their own, where a test row has so many."""
    return (rows.train or TRAIN_ROWS) + rows.reserve + (rows.dev or 0) + kinds * (rows.test or TEST_ROWS)


def reads_images(stage: AttackStage) -> bool:
    """True if the rows of the stage's task have images."""
    return bool(_plugin("tasks", stage.task).reads_images)


def _plugin(kind: str, spec: PluginSpec) -> Any:
    """A plug-in with its options."""
    return _validated(kind, spec.name, spec.plugin_sha256, json.dumps(spec.options, sort_keys=True))


@cache
def _validated(kind: str, name: str, plugin_sha256: str | None, options: str) -> Any:
    return registry.load(kind, name, plugin_sha256).model_validate_json(options)
