"""A plan says how the rows of a model are computed where its config.json is at hand."""

import json
from pathlib import Path

import pytest

from p2p_dist.config.model import ModelRef
from p2p_dist.report.plan_view import _mode_lines
from p2p_dist.scheduling.row_modes import row_modes


@pytest.mark.parametrize(
    ("config", "lines"),
    [
        ({"model_type": "llama"}, []),
        (
            {"model_type": "lfm2"},
            ["      rows of m: row by row (lfm2 mixes rows in convolutions or recurrent", "        states)"],
        ),
        (
            {"model_type": "new"},
            ["      rows of m: packed or row by row (new is checked when the model is loaded)"],
        ),
    ],
)
def test_row_modes_of_a_folder(tmp_path: Path, config: dict[str, str], lines: list[str]) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    modes = row_modes([ModelRef("m", {"source": "folder", "sha256": "0"}, {"path": str(tmp_path)})], 128)
    assert _mode_lines(modes) == lines


def test_row_modes_without_a_config_are_left_out(tmp_path: Path) -> None:
    """A model that is not here yet, one without a config, and one of a shape that is always packed."""
    models = [
        ModelRef("hub", {"source": "hub", "ref": "org/none", "revision": "0" * 40}),
        ModelRef("empty", {"source": "folder", "sha256": "0"}, {"path": str(tmp_path)}),
        ModelRef("random", {"source": "random", "shape": {}}),
    ]
    assert row_modes(models, 128) == {}
