"""Damaged model folders: whatever stands in their files, the answer is a UserError or an accepted folder."""

import json
import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from p2p_dist.config.model import ModelRef
from p2p_dist.config.study import LoraSpec, TrainSpec
from p2p_dist.errors import UserError
from p2p_dist.model_files.check import check_folder
from p2p_dist.scheduling.model_checks import check_models
from p2p_dist.scheduling.model_facts import positions_of
from p2p_dist.scheduling.row_modes import row_modes
from tests.model_folders import rewrite_header, write_model

FILES = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 1 << 70) | st.floats() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)
LENGTHS = ["attention_chunk_size", "sliding_window", "layer_types", "rope_scaling", "text_config", "n_positions"]
"""Keys of config.json about the length of rows, which not every one has."""
EXAMPLES = int(os.environ.get("P2P_DIST_FUZZ", "40"))
FUZZED = settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("models") / "sound")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return tmp_path / "model"


def restore(sound: Path, model: Path) -> None:
    shutil.rmtree(model, ignore_errors=True)
    shutil.copytree(sound, model)


def accepted_or_refused(folder: Path) -> None:
    """Any other exception than UserError fails the test."""
    with suppress(UserError):
        check_folder(folder)
    model = ModelRef("m", {"source": "folder"}, {"path": str(folder)})
    train = TrainSpec(lora=LoraSpec(target_modules=("q_proj",)))
    with suppress(UserError):
        check_models([(model, train, 8)], [])
        positions_of(model)
        row_modes([model], train.max_length)


@FUZZED
@given(file=st.sampled_from(FILES), start=st.integers(0, 3000), content=st.binary(max_size=12), cut=st.booleans())
def test_check_folder_damaged_bytes(file: str, start: int, content: bytes, cut: bool, sound: Path, model: Path) -> None:
    """Bytes are overwritten somewhere, or the file ends there."""
    restore(sound, model)
    before = (model / file).read_bytes()
    start = min(start, len(before))
    (model / file).write_bytes(before[:start] + content + (b"" if cut else before[start + len(content) :]))
    accepted_or_refused(model)


@FUZZED
@given(data=st.data(), value=VALUES)
def test_check_folder_any_value_of_a_key(data: Any, value: object, sound: Path, model: Path) -> None:
    """A key of a JSON file, on its first or second level, has another value."""
    restore(sound, model)
    file = data.draw(st.sampled_from([name for name in FILES if name.endswith(".json")]))
    content = json.loads((model / file).read_text())
    place = content
    key = data.draw(st.sampled_from(sorted(place) + (LENGTHS if file == "config.json" else [])))
    if isinstance(place.get(key), dict) and place[key] and data.draw(st.booleans()):
        place = place[key]
        key = data.draw(st.sampled_from(sorted(place)))
    place[key] = value
    (model / file).write_text(json.dumps(content))
    accepted_or_refused(model)


@FUZZED
@given(data=st.data(), value=VALUES)
def test_check_folder_any_entry_of_a_header(data: Any, value: object, sound: Path, model: Path) -> None:
    """A tensor of the header, or one of its keys, is anything."""
    restore(sound, model)

    def change(header: dict[str, Any]) -> None:
        name = data.draw(st.sampled_from(sorted(header)))
        key = data.draw(st.sampled_from([None, "dtype", "shape", "data_offsets"]))
        if key is None or name == "__metadata__":
            header[name] = value
        else:
            header[name][key] = value

    rewrite_header(model, change)
    accepted_or_refused(model)


@FUZZED
@given(content=VALUES)
def test_check_folder_any_index(content: object, sound: Path, model: Path) -> None:
    """The index of shards, as it is or as its map, is anything."""
    restore(sound, model)
    (model / "model.safetensors").unlink()
    for index in (content, {"weight_map": content}):
        (model / "model.safetensors.index.json").write_text(json.dumps(index))
        accepted_or_refused(model)
