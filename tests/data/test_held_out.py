"""Held-out rows for thresholds: from a dev file, or from the training rows."""

import json
from pathlib import Path

import pytest

from p2p_dist.config.study import RowsSpec
from p2p_dist.data import sources
from p2p_dist.data.build import build_attacked
from p2p_dist.data.built import HELD_OUT
from p2p_dist.data.defenses.onion import Onion
from p2p_dist.data.tasks.cr import CustomerReviews
from p2p_dist.data.tasks.custom import Custom
from p2p_dist.data.tasks.hateful_memes import HatefulMemes
from p2p_dist.errors import UserError
from p2p_dist.registry import load


@pytest.fixture
def task(tmp_path: Path) -> CustomerReviews:
    """Eight training rows, two test rows, and four dev rows, of which one is a training row too."""
    rows = {"train": range(8), "test": range(8, 10), "dev": [0, 10, 11, 12, 13]}
    for name, numbers in rows.items():
        lines = (json.dumps({"text": f"row {number}", "label": number % 2}) for number in numbers)
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    return CustomerReviews(source=str(tmp_path))


def built(task: CustomerReviews, rows: RowsSpec) -> tuple[list[str], list[str]]:
    """Texts of the training rows and of the held-out ones."""
    dev = rows.dev is not None
    raw = sources.read(task, sources.locate(task, dev), dev=dev)
    data = build_attacked(task, raw, rows, load("attacks", "none")(), None)
    suite = data.suites.get(HELD_OUT)
    return [row.text for row in data.train], [row.text for row in suite.rows] if suite else []


def test_dev_rows_are_held_out_of_their_own_file(task: CustomerReviews) -> None:
    """All training rows stay, and no held-out row is one of them."""
    train, held_out = built(task, RowsSpec(dev=4))
    assert (len(train), sorted(held_out)) == (8, ["row 10", "row 11", "row 12", "row 13"])
    assert built(task, RowsSpec())[1] == []
    with pytest.raises(UserError, match=r"E205.*rows\.dev"):
        built(task, RowsSpec(dev=6))


def test_dev_rows_without_a_file_leave_the_training_rows(task: CustomerReviews) -> None:
    """Without a dev file the training rows lose those that are held out."""
    assert task.source is not None
    Path(task.source, "dev.jsonl").unlink()
    train, held_out = built(task, RowsSpec(dev=4))
    assert (len(train), len(held_out)) == (4, 4)
    assert set(train) & set(held_out) == set()


@pytest.mark.parametrize("dev_file", [True, False])
def test_dev_rows_have_no_text_of_a_trusted_row(dev_file: bool, tmp_path: Path) -> None:
    """Trusted rows are trained on, so that none of them is held out."""
    files = {"train": range(8), "test": range(8, 10), "trusted": (2, 10, 11)}
    for name, numbers in {**files, **({"dev": range(10, 14)} if dev_file else {})}.items():
        lines = (json.dumps({"text": f"row {number}", "label": "ab"[number % 2]}) for number in numbers)
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    own = Custom(source=str(tmp_path), label_names=("a", "b"))
    raw = sources.read(own, sources.locate(own, dev=True), dev=True)
    most = 2 if dev_file else 7
    split = own.split(raw, RowsSpec(dev=most, balanced=False))
    assert {"row 2", "row 10", "row 11"} <= {row.text for row in split.train}
    assert len(split.held_out) == most
    assert not {row.text for row in split.held_out} & {row.text for row in split.train}


def test_dev_file_that_has_the_test_rows_is_not_held_out(tmp_path: Path) -> None:
    """Hateful Memes may be tested on its dev split, of which nothing is left to hold out."""
    for name in ("train", "dev"):
        (tmp_path / f"{name}.jsonl").write_text(json.dumps({"text": name, "label": 0, "img": "img/1.png"}) + "\n")
    task = HatefulMemes(source=str(tmp_path), images=False)
    assert set(sources.read(task, sources.locate(task, dev=True), dev=True)) == {"train", "test"}


def test_dev_file_is_identity_only_where_it_is_read(task: CustomerReviews) -> None:
    """A dev file that a study does not read leaves its ids as they are."""
    assert task.source is not None
    file = Path(task.source, "dev.jsonl")
    without, with_dev = sources.locate(task).digest, sources.locate(task, dev=True).digest
    assert without != with_dev
    file.write_text(file.read_text().replace("row 13", "row 15"))
    assert sources.locate(task).digest == without
    assert sources.locate(task, dev=True).digest != with_dev


def test_onion_is_compatible_with_rows_dev(task: CustomerReviews) -> None:
    """Held-out rows serve the choice of a bar, so that no trusted rows are needed."""
    attack = load("attacks", "none")()
    assert Onion().incompatibility(task, attack, RowsSpec()) is not None
    assert Onion().incompatibility(task, attack, RowsSpec(dev=4)) is None
    with pytest.raises(ValueError, match=r"remove rows\.split"):
        RowsSpec(dev=4, split="judge")
