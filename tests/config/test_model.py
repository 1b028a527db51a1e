"""Models by name, folder, file and hub id."""

from pathlib import Path

import pytest

from p2p_dist.config.model import resolve_model
from p2p_dist.errors import UserError
from p2p_dist.scheduling.study import configs_dir

MODELS = configs_dir() / "models"


def test_a_hub_id_is_pinned() -> None:
    assert resolve_model("Qwen/Qwen3-0.6B", MODELS).identity == resolve_model("qwen3-0.6b", MODELS).identity
    assert resolve_model(f"a/b@{'0' * 40}", MODELS).identity == {"source": "hub", "ref": "a/b", "revision": "0" * 40}
    with pytest.raises(UserError, match="E115"):
        resolve_model("a/b", MODELS)
    with pytest.raises(UserError, match="E115"):
        resolve_model("a/b@main", MODELS)


def test_a_folder_is_known_by_its_content(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    before = resolve_model(str(tmp_path), MODELS)
    (tmp_path / "config.json").write_text("{ }")
    assert resolve_model(str(tmp_path), MODELS).identity != before.identity
    assert "path" not in before.identity


def test_a_gguf_file_is_known_by_its_hash(tmp_path: Path) -> None:
    (tmp_path / "a.gguf").write_bytes(b"one")
    (tmp_path / "b.gguf").write_bytes(b"one")
    assert (
        resolve_model(str(tmp_path / "a.gguf"), MODELS).identity
        == resolve_model(str(tmp_path / "b.gguf"), MODELS).identity
    )


@pytest.mark.parametrize("value", ["smollm2-135m-instuct", "random:nope", 3])
def test_unknown(value: object) -> None:
    with pytest.raises(UserError, match=r"E117|E103"):
        resolve_model(value, MODELS)
