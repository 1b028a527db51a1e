"""The same configuration gives the same bytes: any order of rows, any process, any PYTHONHASHSEED; and no defender sees
an origin."""

import hashlib
import json
import os
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2p_dist import registry
from p2p_dist.data.attack import Attack
from p2p_dist.data.build import build_attacked, build_defended
from p2p_dist.data.built import Built
from p2p_dist.data.defense import DataDefense
from p2p_dist.data.example import RawRow
from p2p_dist.data.task import Task
from p2p_dist.data.tasks.hateful_memes import HatefulMemes
from p2p_dist.data.tasks.sst2 import Sst2
from tests.contracts.test_plugins import NEED_IMAGES, RAW, ROWS, options, plugins, rewrites_without_a_model

NAMES = registry.names("attacks")


def attacked(name: str, train: list[RawRow], test: list[RawRow], seed: int = 3) -> Built:
    attack = registry.load("attacks", name)
    one = attack(**options(attack))
    assert isinstance(one, Attack)
    return build_attacked(task_for(name), {"train": train, "test": test}, ROWS, one, seed)


def task_for(attack: str) -> Task:
    """A task that the attack can be made on."""
    needs_images = registry.load("attacks", attack) in NEED_IMAGES
    return HatefulMemes() if needs_images else Sst2()


def digest(built: Built) -> str:
    """One hash over all that a data stage writes."""
    content = json.dumps(asdict(built), sort_keys=True, default=lambda spec: spec.model_dump())
    return hashlib.sha256(content.encode()).hexdigest()


def all_digests() -> dict[str, str]:
    return {name: digest(attacked(name, list(RAW["train"]), list(RAW["test"]))) for name in NAMES}


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=8, deadline=None)
@given(train=st.permutations(RAW["train"]), test=st.permutations(RAW["test"]), seed=st.integers(0, 2))
def test_any_order_of_rows(name: str, train: list[RawRow], test: list[RawRow], seed: int) -> None:
    assert digest(attacked(name, train, test, seed)) == digest(
        attacked(name, list(RAW["train"]), list(RAW["test"]), seed)
    )


@pytest.mark.process
def test_any_process_and_hash_seed() -> None:
    code = "import json; from tests.contracts.test_reproducible import all_digests; print(json.dumps(all_digests()))"
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONHASHSEED"}
    for hash_seed in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-c", code],
            env={**environment, "PYTHONHASHSEED": hash_seed},
            cwd=Path(__file__).parents[2],
            capture_output=True,
            text=True,
            check=True,
        )
        assert json.loads(done.stdout) == all_digests()


@pytest.mark.parametrize("name", [name for name in NAMES if name != "none"])
@pytest.mark.parametrize("defense", plugins("defenses"), ids=registry.names("defenses"))
def test_flipped_origins_change_no_byte_of_a_defense(defense: type, name: str) -> None:
    one = defense(**options(defense))
    if not isinstance(one, DataDefense) or not rewrites_without_a_model(one):
        return
    task = task_for(name)
    rows = attacked(name, list(RAW["train"]), list(RAW["test"]))
    flip = {"clean": "poisoned", "poisoned": "clean", "negative": "clean"}
    flipped = replace(rows, notes=[replace(note, origin=flip[note.origin]) for note in rows.notes])
    plain, other = build_defended(rows, task, one, 0), build_defended(flipped, task, one, 0)
    assert (plain.train, plain.reserve, plain.suites) == (other.train, other.reserve, other.suites)
