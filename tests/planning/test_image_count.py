"""Images that a plan has memory for."""

from pathlib import Path

import pytest

from p2p_dist.planning.row_tokens import image_count
from p2p_dist.scheduling.study import open_study

STUDY = """
name: memes
task: {name: hateful_memes}
model: tiny_vl
attack: {name: patch, rate: 0.05}
defense: [none, {name: p2p, benign_patch: {colour: "#0000ff"}}]
rows: {train: 24, test: 10, reserve: 8}
train: {global_batch: 8}
"""


@pytest.mark.usefixtures("with_data")
@pytest.mark.parametrize(
    ("overrides", "images"),
    [
        ([], 24 + 8 + 4 * 10),
        (["defense=none"], 24 + 8 + 2 * 10),
        (["attack={name: badnets, rate: 0.05}"], 24 + 8 + 2 * 10),
        (["attack={name: badnets, rate: 0.05}", "defense=[none, p2p]"], 24 + 8 + 10),
        (["attack={name: badnets, rate: 0.05}", "defense=none", "task.images=false", "model=tiny"], 0),
    ],
    ids=["both patch", "the attack", "the defense", "neither", "no images"],
)
def test_a_test_row_has_an_image_for_every_patch(tmp_path: Path, overrides: list[str], images: int) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(STUDY)
    assert image_count(open_study(path, overrides, tmp_path / "runs").expansion.graph) == images
