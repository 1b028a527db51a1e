"""Settings of the paper's experiments (section 5.1), held against those of a run: only like is compared with like.

The poisoning rate and words of an attack are its preset of the paper; rows are all of the task, and training is that of
every table. Rivals have no options in the paper, and theirs are not compared.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from p2p_dist import registry

PRESETS = ("p2p", "p2p_like")
"""Names of an attack's preset with the paper's settings; mathematics has `dirty` for ProAttack."""
TRAINING: Mapping[str, Any] = {"learning_rate": 2e-4, "num_train_epochs": 3, "global_batch": 32}
RANK = 16
BENIGN_SHARES = (0.2, 0.3)
BENIGN_SOURCES = ("random_from_D", "disjoint")
"""The paper's algorithm, and the released code's."""

TARGETS = {"sst2": 1, "cr": 1, "agnews": 0}
"""Target labels of tables 1 to 3: the rates for SST-2 and CR are counts of negative rows."""
ROWS_NOT_STATED = ("yahoo_answers",)
"""Tasks whose number of training rows the paper does not state."""

Spec = Mapping[str, Any]


def deviations(stages: Mapping[str, Spec], task: str) -> list[str]:
    """Settings of a run that are not the paper's, each as `rate 0.05 (paper: 0.02)`.

    `stages` has the specs of its stages by step: `attack`, `defend` and `train`; missing ones are not compared.
    """
    attack, defend, training = (stages.get(step, {}) for step in ("attack", "defend", "train"))
    return [
        *_of_attack(attack.get("attack", {}), task),
        *(() if task in ROWS_NOT_STATED else _of_rows(attack.get("rows", {}))),
        *_of_defense(defend.get("defense", {})),
        *_of_training(training.get("train", {})),
    ]


def _of_attack(attack: Spec, task: str) -> Iterator[str]:
    if attack.get("name", "none") == "none":
        return
    presets = registry.load("attacks", attack["name"]).presets
    dirty = task == "ape210k" and attack["name"] == "proattack"
    names = ("dirty",) if dirty else PRESETS
    expected: Spec = next((presets[name] for name in names if name in presets), {})
    target = TARGETS.get(task)
    if target is not None and attack.get("target_label", target) != target:
        yield f"target_label {attack['target_label']} (paper: {target})"
    for option, value in expected.items():
        if _plain(attack.get(option, value)) != _plain(value):
            yield f"{option} {attack[option]} (paper: {value})"


def _of_rows(rows: Spec) -> Iterator[str]:
    if rows.get("train") is not None:
        yield f"{rows['train']} training rows (paper: all)"


def _of_defense(defense: Spec) -> Iterator[str]:
    if defense.get("name") != "p2p":
        return
    low, high = BENIGN_SHARES
    if not low <= float(defense.get("ratio", low)) <= high:
        yield f"ratio {defense['ratio']} (paper: {low} to {high})"
    if (mode := defense.get("benign_mode", "union")) == "alone":
        yield f"benign_mode {mode} (paper: benign rows beside the others)"
    if (source := defense.get("benign_source", "random_from_D")) not in BENIGN_SOURCES:
        yield f"benign_source {source} (paper: {' or '.join(BENIGN_SOURCES)})"


def _of_training(train: Spec) -> Iterator[str]:
    for option, value in TRAINING.items():
        if train.get(option, value) != value:
            yield f"{option} {train[option]} (paper: {value})"
    if train.get("method", "lora") != "lora":
        yield f"method {train['method']} (paper: lora)"
    if (rank := train.get("lora", {}).get("r", RANK)) != RANK:
        yield f"lora.r {rank} (paper: {RANK})"


def _plain(value: object) -> object:
    """The value as a file has it: tuples are lists there."""
    return list(value) if isinstance(value, tuple) else value
