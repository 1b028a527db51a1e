"""Stages of invented studies, complete enough to be planned."""

from typing import Any

from p2p_dist.config.graph import Stage

TRAIN: dict[str, Any] = {"lora": {"r": 4}, "num_train_epochs": 1, "global_batch": 10}
LABELS = {"method": {"name": "labels", "sets": ["train"]}}


def rows_stage(train: int = 100, test: int = 10, seed: int = 0) -> Stage:
    """Rows of a task."""
    spec = {
        "step": "attack",
        "task": {"name": "sst2"},
        "rows": {"train": train, "test": test},
        "source": "0" * 12,
        "attack": {"name": "badnets"},
        "seed": seed,
    }
    return Stage("data", spec, local={"source": {"kind": "files", "place": "rows"}})


def train_stage(rows: Stage, model: str = "random", seed: int = 0, start: Stage | None = None, **changes: Any) -> Stage:
    """A training on these rows; `changes` are settings of `train`."""
    reads = {"rows": rows.id, **({"start": start.id} if start else {})}
    return Stage("train", {"model": {"source": model}, "train": {**TRAIN, **changes}, "seed": seed}, reads)
