"""Models by name, folder, file and hub id."""

from pathlib import Path

import pytest

from p2p_dist.config.load import load_study
from p2p_dist.config.model import resolve_model
from p2p_dist.config.study import StudySpec
from p2p_dist.errors import UserError
from p2p_dist.scheduling.study import configs_dir
from tests.model_folders import write_model

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


def study_of(tmp_path: Path, *overrides: str) -> StudySpec:
    path = tmp_path / "study.yaml"
    path.write_text("name: models\ntask: rotten_tomatoes\nmodel: tiny\n")
    return load_study(path, overrides, MODELS)


def test_model_options_are_identity_only_when_set(tmp_path: Path) -> None:
    """A mapping without options is the model by its name, so old ids stay."""
    folder = write_model(tmp_path / "model")
    (plain,) = study_of(tmp_path, f"model={folder}").model
    (mapped,) = study_of(tmp_path, f"model={{name: {folder}, add_bos_token: false, allow_missing: []}}").model
    assert mapped == plain
    (begun,) = study_of(tmp_path, f"model={{name: {folder}, add_bos_token: true}}").model
    assert begun.identity == {**plain.identity, "add_bos_token": True}
    (lenient,) = study_of(tmp_path, f"model={{name: {folder}, allow_missing: [b, a]}}").model
    assert lenient.identity == {**plain.identity, "allow_missing": ["a", "b"]}


@pytest.mark.parametrize(
    ("value", "code"),
    [
        ("{name: tiny, add_bos_token: true}", "E107"),
        ("{name: tiny, bos: true}", "E103"),
        ("{add_bos_token: true}", "E103"),
        ("{name: nope}", "E117"),
        ("{name: tiny, allow_missing: x}", "E107"),
    ],
)
def test_model_options_wrong_are_refused_with_their_key(value: str, code: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"{code}.*model"):
        study_of(tmp_path, f"model={value}")


def test_models_of_one_name_are_told_apart(tmp_path: Path) -> None:
    """Two folders of the same name, and one model with and without a start token, are different cells of the grid."""
    first, second = write_model(tmp_path / "a" / "model"), write_model(tmp_path / "b" / "model", vocab_size=259)
    models = study_of(tmp_path, f"model=[{first}, {second}, {{name: {first}, add_bos_token: true}}]").model
    names = [model.name for model in models]
    assert len(set(names)) == 3
    assert all(name.startswith("model(") for name in names)
    assert "add_bos_token=True" in names[2]
    assert [model.name for model in study_of(tmp_path, f"model=[tiny, {first}]").model] == ["tiny", "model"]
