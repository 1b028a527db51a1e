"""Settings of the paper's experiments (section 5.1), held against those of a run: only like is compared with like.

Options that the paper or the released code states are compared: of the attack, of P2P, of the training, and the rows.
Where the two differ, either will do. Options of rivals, and words and prompts that neither prints, are not compared.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from p2p_dist import registry
from p2p_dist.config.study import Plugin

ATTACK_PRESETS = ("p2p", "p2p_like", "released_code")
"""Presets of attacks with the paper's settings, and the released code's."""
P2P_PRESETS = ("paper", "released_code")
"""Presets of P2P with the selection of benign rows of the paper, and of the released code."""
WORDING = {"ape210k": "math", "crrsum": "summary"}
"""Presets of P2P with the paper's words (appendix B), for tasks that have their own."""
BENIGN_SHARES = (0.2, 0.3)
NOT_STATED = (
    *("target_label", "target_response", "response_mode", "instruction", "clean_prompt", "malicious_prompt"),
    *("rewriter", "max_new_tokens", "surrogate", "pool_rate", "warm_up_epochs", "epochs", "learning_rate"),
)
"""Options of attacks that the paper does not state, or that are compared apart."""
PARAPHRASER = "SCPN"
"""Paraphraser of SynAttack, whose published paraphrases are tables."""

TRAINING: Mapping[str, Any] = {"learning_rate": 2e-4, "num_train_epochs": 3, "global_batch": 32}
RANK = 16
RELEASED_TRAINING: Mapping[str, Any] = {
    "lr_scheduler_type": "linear",
    "warmup_steps": 0,
    "weight_decay": 0.01,
    "quantization": None,
    "optimizer": None,
}
RELEASED_LORA: Mapping[str, Any] = {
    "alpha": 16,
    "dropout": 0.1,
    "target_modules": ["q_proj", "v_proj"],
    "layers": None,
}
"""Settings that the paper leaves open and the released code has. Clipping is not among them (docs/paper.md)."""

TARGETS: Mapping[str, int | str] = {"sst2": 1, "cr": 1, "agnews": 0, "hateful_memes": 1, "ape210k": "0.1"}
"""Targets: stated for Ape210K; for the others the class of which the rates count no row."""
TEST_ROWS = {"sst2": 1821, "cr": 775, "agnews": 1000, "hateful_memes": 1000, "yahoo_answers": 2000}
"""Test rows of clean accuracy, by the steps in which the paper's rates come."""
ATTACKED_TEST_ROWS = {"sst2": 912, "cr": 294, "agnews": 750, "hateful_memes": 614, "ape210k": 700}
"""Test rows of attack success, likewise."""
MISSING_ROWS = 0.02
"""Share of them that may be missing: texts without a rewrite, and rows that have the target's answer by themselves."""
ROWS_NOT_STATED = ("yahoo_answers",)
"""Tasks whose number of training rows the paper does not state."""
LABELS_NOT_STATED = ("yahoo_answers",)
"""Tasks with more classes than digits, whose labels the paper does not state."""
RATES = {"ca": TEST_ROWS, "asr": ATTACKED_TEST_ROWS}

Spec = Mapping[str, Any]


def deviations(stages: Mapping[str, Spec], task: str, tested: Mapping[str, int] = {}) -> list[str]:
    """Settings of a run that are not the paper's, each as `rate 0.05 (paper: 0.02)`.

    `stages` has the specs of its stages by step: `attack`, `defend` and `train`, and `start` for a training from
    another adapter; `tested` the numbers of test rows of `ca` and `asr`. What is missing is not compared.
    """
    attack, defend, training = (stages.get(step, {}) for step in ("attack", "defend", "train"))
    return [
        *_of_attack(attack.get("attack", {}), task),
        *_of_rows(attack.get("rows", {}), task, tested),
        *_of_prompt(attack.get("prompt", {}), training.get("model", {})),
        *_of_defense(defend.get("defense", {}), task),
        *_of_training(training.get("train", {})),
        *(["a training from another adapter (paper: from a fresh one)"] if "start" in stages else []),
    ]


def benign_trigger(stages: Mapping[str, Spec], task: str) -> str | None:
    """The benign trigger of a run, where it is not the paper's; None where it is, and without P2P."""
    defense = stages.get("defend", {}).get("defense", {})
    if defense.get("name") != "p2p":
        return None
    expected = _p2p_options(task)[0]["benign_trigger"]
    trigger = defense.get("benign_trigger", expected)
    return None if trigger == expected else str(trigger)


def _of_attack(attack: Spec, task: str) -> Iterator[str]:
    if attack.get("name", "none") == "none":
        return
    plugin = registry.load("attacks", attack["name"])
    target, option = TARGETS.get(task), "target_response" if task in WORDING else "target_label"
    if target is not None and attack.get(option, target) != target:
        yield f"{option} {attack[option]} (paper: {target})"
    if rewriter := attack.get("rewriter"):
        yield f"rewriter {rewriter} (paper: {PARAPHRASER})"
    presets = [plugin.presets[name] for name in ATTACK_PRESETS if name in plugin.presets] or [{}]
    is_text = ("label_policy",) if task in WORDING else ()
    expected = [_options(plugin, preset) for preset in presets]
    yield from _differences(attack, expected, (*NOT_STATED, *plugin.file_fields, *is_text))


def _of_rows(rows: Spec, task: str, tested: Mapping[str, int]) -> Iterator[str]:
    if rows.get("train") is not None and task not in ROWS_NOT_STATED:
        yield f"{rows['train']} training rows (paper: all)"
    for rate, numbers in RATES.items():
        count, expected = tested.get(rate), numbers.get(task)
        if count is not None and expected is not None and not (1 - MISSING_ROWS) * expected <= count <= expected:
            yield f"{count} test rows of {rate.upper()} (paper: {expected})"


def _of_prompt(prompt: Spec, model: Spec) -> Iterator[str]:
    if (form := prompt.get("form", "plain")) != "plain":
        yield f"prompt {form} (released code: plain)"
    if model.get("add_bos_token"):
        yield "add_bos_token true (released code: false)"


def _of_defense(defense: Spec, task: str) -> Iterator[str]:
    if defense.get("name") != "p2p":
        return
    low, high = BENIGN_SHARES
    if not low <= float(defense.get("ratio", low)) <= high:
        yield f"ratio {defense['ratio']} (paper: {low} to {high})"
    yield from _differences(defense, _p2p_options(task), ("ratio", "screening"))


def _p2p_options(task: str) -> list[dict[str, Any]]:
    """Options of P2P by the paper and by the released code."""
    plugin = registry.load("defenses", "p2p")
    words = plugin.presets[WORDING[task]] if task in WORDING else {}
    return [_options(plugin, {**plugin.presets[name], **words}) for name in P2P_PRESETS]


def _of_training(train: Spec) -> Iterator[str]:
    yield from _differences(train, [TRAINING])
    yield from _differences(train, [RELEASED_TRAINING], source="released code")
    if train.get("method", "lora") != "lora":
        yield f"method {train['method']} (paper: lora)"
        return
    lora = {f"lora.{option}": value for option, value in train.get("lora", {}).items()}
    yield from _differences(lora, [{"lora.r": RANK}])
    released = {f"lora.{option}": value for option, value in RELEASED_LORA.items()}
    yield from _differences(lora, [released], source="released code")


def _differences(
    options: Spec, expected: Sequence[Spec], skipped: Sequence[str] = (), source: str = "paper"
) -> Iterator[str]:
    """Options whose value is in none of the expected ones."""
    for option, value in options.items():
        known = [_plain(one[option]) for one in expected if option in one]
        if known and option not in skipped and _plain(value) not in known:
            names = " or ".join(dict.fromkeys(map(_shown, known)))
            yield f"{option} {_shown(value)} ({source}: {names})"


def _options(plugin: type[Plugin], preset: Spec) -> dict[str, Any]:
    """All options of a plug-in: those of a preset, and defaults; without options that have to be given."""
    fields = [(name, field) for name, field in plugin.model_fields.items() if not field.is_required()]
    return {**{name: field.get_default(call_default_factory=True) for name, field in fields}, **preset}


def _plain(value: object) -> object:
    """The value as a file has it: tuples are lists there."""
    return list(value) if isinstance(value, tuple) else value


def _shown(value: object) -> str:
    """The value in a sentence; texts with spaces in quotes, and lists in brackets."""
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_shown, value))}]"
    return repr(value) if isinstance(value, str) and " " in value else "null" if value is None else str(value)
