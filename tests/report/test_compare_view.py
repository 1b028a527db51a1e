"""Two studies side by side: the settings that differ."""

from typing import Any

from p2p_dist.report.compare_view import differing_settings, settings_lines


def stages(rate: float = 0.05, layers: int = 2, seed: int = 0, **train: Any) -> dict[str, dict[str, Any]]:
    """Specs of one data stage and one training."""
    attack = {"name": "badnets", "rate": rate, "words": None}
    return {
        "d": {"kind": "data", "spec": {"step": "attack", "attack": attack, "seed": seed, "source": "abc"}},
        "t": {"kind": "train", "spec": {"model": {"shape": {"layers": layers}}, "train": train, "seed": seed}},
    }


def test_settings_that_differ_have_both_values() -> None:
    left = stages(learning_rate=1e-3, lora={"r": 4, "alpha": 16})
    right = stages(rate=0.1, learning_rate=2e-4, lora={"r": 4, "alpha": 32}, warmup_steps=5)
    assert differing_settings(left, right) == [
        {"setting": "attack", "first": ["badnets(rate=0.05)"], "second": ["badnets(rate=0.1)"]},
        {"setting": "train.learning_rate", "first": ["0.001"], "second": ["0.0002"]},
        {"setting": "train.lora.alpha", "first": ["16"], "second": ["32"]},
        {"setting": "train.warmup_steps", "first": [], "second": ["5"]},
    ]


def test_settings_over_several_stages_are_sets() -> None:
    left = {**stages(), **{f"{key}2": stage for key, stage in stages(seed=1).items()}}
    assert differing_settings(left, stages(layers=3)) == [
        {"setting": "model.shape.layers", "first": ["2"], "second": ["3"]},
        {"setting": "seed", "first": ["0", "1"], "second": ["0"]},
    ]


def test_settings_lines_say_when_nothing_differs() -> None:
    assert settings_lines({"settings": differing_settings(stages(), stages())}, "a", "b") == [
        "settings: the same in both studies"
    ]
    differing = {"settings": differing_settings(stages(), stages(warmup_steps=5))}
    assert settings_lines(differing, "a", "b") == ["settings that differ (a / b):", "  train.warmup_steps: – / 5"]
