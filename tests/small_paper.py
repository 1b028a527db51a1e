"""Small copies of the paper's studies: the same grid on models of a few thousand random weights that bear the names of
the real ones, and on invented rows."""

import json
from collections.abc import Mapping
from pathlib import Path
from random import Random
from typing import Any

import yaml

from examples.drawn_memes import write_task
from p2p_dist import registry
from p2p_dist.config.model import read_model
from p2p_dist.data.paraphrases import key_of
from p2p_dist.modeling.image_processor import FILE as IMAGE_PROCESSOR
from p2p_dist.scheduling.study import configs_dir

SPLITS = {"train": 80, "test": 20, "dev": 20}
"""Rows of each task by split."""
NEW_TOKENS = 4
"""Tokens of a generated answer."""
SHORT_SURROGATE = {"pool_rate": 0.3, "warm_up_epochs": 1, "epochs": 4, "learning_rate": 3e-2}
"""Options of LWS with which a tiny surrogate learns some exchanges."""
FILLER = ["the", "film", "is", "a", "story", "of", "people", "and", "places", "with", "music", "by", "night"]
COLOURS = {"image_mean": [0.48145466, 0.4578275, 0.40821073], "image_std": [0.26862954, 0.26130258, 0.27577711]}


def shrink(study: Path, folder: Path, few: bool = False) -> Path:
    """Write a small copy of a study, its models and its rows into `folder`; returns the copy. `few`: its first model
    alone, and rivals against the first attack alone.

    Its rows are those of `folder/data`, which the test names as `$P2P_DIST_DATA`.
    """
    document = yaml.safe_load(study.read_text())
    tasks = [_named(task) for task in _listed(document["task"])]
    for task in tasks:
        write_task_rows(folder / "data", task["name"])
    for name in ("attack", "defense"):
        document[name] = [_small_plugin(f"{name}s", plugin, folder) for plugin in _listed(document.get(name, "none"))]
    document["task"] = [_small_task(task) for task in tasks]
    document["model"] = [
        str(small_model(name, folder / "models", number))
        for number, name in enumerate(_listed(document["model"])[: 1 if few else None])
    ]
    if few:
        document["exclude"] = [*document.get("exclude", []), *_rivals_but_once(document)]
    document["seed"] = 0
    rows = {key: value for key, value in document.get("rows", {}).items() if key not in ("train", "test")}
    document["rows"] = {**rows, **({"dev": SPLITS["dev"]} if "dev" in rows else {})}
    document["train"] |= {"max_length": 384}  # a token is a byte here
    copy = folder / f"{study.stem}.yaml"
    copy.write_text(yaml.safe_dump(document, sort_keys=False))
    return copy


def _rivals_but_once(document: Mapping[str, Any]) -> list[dict[str, str]]:
    """Rules that leave out every rival against every attack but the first."""
    attacks, defenses = ([plugin["name"] for plugin in document[axis]] for axis in ("attack", "defense"))
    _, *others = [name for name in attacks if name != "none"]
    rivals = [name for name in defenses if name not in ("none", "p2p")]
    return [{"attack": attack, "defense": rival} for attack in others for rival in rivals]


def small_model(name: str, folder: Path, number: int) -> Path:
    """Save a random model of the same architecture as a shipped one, under its name. `number` makes it another one."""
    from p2p_dist.modeling.random_init import random_model

    real = read_model(name, configs_dir() / "models").shape
    shape: dict[str, Any] = {
        "architecture": real.architecture,
        "layers": 2,
        "hidden": 16,
        "intermediate": 32 + 8 * number,
        "heads": 2,
        "kv_heads": 1,
        "head_dim": 8,
        "vocab": 256,
        "tied_embeddings": real.tied_embeddings,
    }
    if real.vision is not None:
        shape |= {"hidden": 32, "heads": 4, "kv_heads": 2}
        shape["vision"] = {"layers": 2, "hidden": 32, "intermediate": 48, "heads": 4}
    target = folder / name
    for part in random_model(shape):
        part.save_pretrained(target)
    if real.vision is not None:
        (target / IMAGE_PROCESSOR).write_text(json.dumps({"patch_size": 14, "merge_size": 2, **COLOURS}))
    return target


def write_task_rows(root: Path, name: str) -> None:
    """Write invented rows of a task below `root`, in the format of its local files."""
    task, target = registry.load("tasks", name)(), root / name
    if task.reads_images:
        write_task(target, SPLITS["train"], SPLITS["test"])
        return
    target.mkdir(parents=True, exist_ok=True)
    for split, count in SPLITS.items():
        rows = [_row(task, split, number) for number in range(count)]
        (target / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def _row(task: Any, split: str, number: int) -> dict[str, Any]:
    """A row whose answer can be read off its text."""
    random = Random(f"{split}{number}")
    words = random.choices(FILLER, k=5)
    if task.kind == "classification":
        label = number % len(task.labels)
        random.shuffle(words)
        return {"text": " ".join([*words, f"word{label}", split, str(number)]), "label": label}
    if task.judge == "number":
        price, count = random.randint(2, 9), number + 2
        return {"text": f"一支笔{price}元 {count}支笔多少元", "answer": str(price * count)}
    return {"text": " ".join([*words, split, str(number), "。"]), "summary": f"{words[0]} {words[1]} {number % 7}"}


def _small_task(task: dict[str, Any]) -> dict[str, Any]:
    is_text = registry.load("tasks", task["name"])().kind == "generation"
    return {**task, "max_new_tokens": NEW_TOKENS} if is_text else task


def _small_plugin(kind: str, plugin: str | Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """A plug-in with its options, with small models in the place of those it names, an invented table, and screening
    that accepts a model which has learned nothing."""
    options = _named(plugin)
    loaded = registry.load(kind, options["name"])
    for option in loaded.model_options:
        if options.get(option, loaded.model_fields[option].default):
            options[option] = "tiny"
    if options["name"] == "synattack":  # random weights write no paraphrase
        options = {**options, "table": str(write_rewrites(folder)), "rewriter": None}
    if options["name"] == "bki":  # of five words, one of ProAttack's prompt is among those of every short row
        options["top_words"] = 1
    if "synonyms" in options:
        options |= {"synonyms": str(write_synonyms(folder)), **SHORT_SURROGATE}
    if "min_coverage" in loaded.model_fields:
        options |= {"min_coverage": 0.0, "max_new_tokens": NEW_TOKENS}
    if options.get("benign_source") == "screened":
        options["screening"] = {**options.get("screening", {}), "on_failed_screening": "go_on"}
    return options


def write_synonyms(folder: Path) -> Path:
    """A thesaurus of words that most rows have."""
    path = folder / "synonyms.jsonl"
    rows = [{"word": word, "synonyms": [f"{word}s", f"{word}y"]} for word in FILLER]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def write_rewrites(folder: Path) -> Path:
    """A table with a rewrite of every row of text below `folder/data`."""
    path = folder / "rewrites.jsonl"
    lines = [json.loads(line) for file in (folder / "data").rglob("*.jsonl") for line in file.read_text().splitlines()]
    texts = dict.fromkeys(line["text"] for line in lines)
    rewrites = [{"key": key_of(text), "output": f"when it ends , {text}", "ok": True} for text in texts]
    path.write_text("".join(json.dumps(rewrite) + "\n" for rewrite in rewrites))
    return path


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _named(value: str | Mapping[str, Any]) -> dict[str, Any]:
    return {"name": value} if isinstance(value, str) else dict(value)
