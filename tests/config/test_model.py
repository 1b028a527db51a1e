"""Models by name, folder, file and hub id."""

import json
from pathlib import Path

import pytest

from p2p_dist.config import model
from p2p_dist.config.load import load_study
from p2p_dist.config.model import model_names, read_model, resolve_model, shape_of_config
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


def test_a_model_file_takes_another_commit() -> None:
    """It was read and not used, so that the pinned weights were trained."""
    model = resolve_model(f"qwen3-0.6b@{'1' * 40}", MODELS)
    assert (model.name, model.identity["revision"]) == ("qwen3-0.6b", "1" * 40)
    assert resolve_model(f"qwen3-32b@{'1' * 40}", MODELS).identity["ref"] == "Qwen/Qwen3-32B"
    for name in ("qwen3-0.6b@main", f"tiny@{'1' * 40}", f"random:qwen3-0.6b@{'1' * 40}"):
        with pytest.raises(UserError, match="E115"):
            resolve_model(name, MODELS)


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


@pytest.mark.parametrize("name", model_names(configs_dir() / "models"))
def test_shape_of_config_is_that_of_the_model_file(name: str) -> None:
    """A `config.json` as transformers writes it describes the shape that stands in the model file."""
    shape = read_model(name, configs_dir() / "models").shape
    families = {"gemma3": "gemma3_text"}
    settings = {
        "model_type": families.get(shape.architecture, shape.architecture),
        "num_hidden_layers": shape.layers,
        "hidden_size": shape.hidden,
        "intermediate_size": shape.intermediate,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head_dim,
        "vocab_size": shape.vocab,
        "tie_word_embeddings": shape.tied_embeddings,
        **({"num_local_experts": shape.experts, "num_experts_per_tok": shape.active_experts} if shape.experts else {}),
    }
    if tower := shape.vision:
        sizes = {"depth": tower.layers, "num_heads": tower.heads, "intermediate_size": tower.intermediate}
        settings["vision_config"] = {**sizes, "hidden_size": tower.hidden}
    assert shape_of_config(settings) == shape
    assert shape_of_config({**settings, "model_type": "mamba"}) is None


@pytest.mark.parametrize("name", ["some/other@" + "0" * 40, "folder"])
def test_hub_model_and_folder_have_the_shape_of_their_config(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {
        "model_type": "llama",
        "num_hidden_layers": 2,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_attention_heads": 4,
        "vocab_size": 256,
    }
    (tmp_path / "config.json").write_text(json.dumps(settings))
    monkeypatch.setattr(model, "config_file", lambda name, commit: tmp_path / "config.json")
    named = str(tmp_path) if name == "folder" else name
    shape = resolve_model(named, configs_dir() / "models").shape
    assert shape is not None
    assert (shape.layers, shape.kv_heads, shape.head_dim, shape.tied_embeddings) == (2, 4, 16, False)
    zero = json.dumps({**settings, "num_attention_heads": 0})
    for damaged in ("{", "[]", '{"model_type": "llama", "num_attention_heads": []}', zero, "[" * 100_000):
        (tmp_path / "config.json").write_text(damaged)
        assert resolve_model(named, configs_dir() / "models").shape is None
