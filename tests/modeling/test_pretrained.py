"""Saved models: loaded as they are, or refused by name with the planner's message."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import AutoPeftModelForCausalLM
from transformers import AutoConfig, AutoModelForCausalLM, OlmoConfig, OlmoForCausalLM

from p2p_dist.config.study import LoraSpec
from p2p_dist.errors import Exit, UserError
from p2p_dist.model_files.check import check_folder
from p2p_dist.model_files.digest import folder_digest
from p2p_dist.model_files.known_types import all_types, causal_types
from p2p_dist.model_files.weight_names import FAMILIES, expected_weights, is_tied
from p2p_dist.modeling import pretrained
from p2p_dist.modeling.base import Base, load_base
from p2p_dist.modeling.lora import Adapters
from p2p_dist.training.adapter_io import save_adapter
from tests.model_files.checkpoint_cases import CASES, Case
from tests.model_folders import CONFIG, Tensors, edit_json, edit_tensors, write_model, write_tokenizer

pytestmark = pytest.mark.torch

IDS = torch.tensor([[72, 105, 33, 256]])
HEAD = "lm_head.weight"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of this test's own."""
    monkeypatch.setenv("P2P_DIST_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("models") / "sound")


@pytest.fixture
def model(sound: Path, tmp_path: Path) -> Path:
    """A copy of the complete folder, to be broken."""
    return Path(shutil.copytree(sound, tmp_path / "broken"))


def load(folder: Path, **options: Any) -> Base:
    identity = {"source": "folder", "sha256": folder_digest(folder), **options}
    return load_base(identity, {"path": str(folder)}, "float32")


def pop(*names: str) -> Any:
    def change(tensors: Tensors) -> None:
        for name in names:
            del tensors[name]

    return edit_tensors(change)


def test_load_base_complete_folder_is_the_checkpoint(sound: Path) -> None:
    """Logits are those of plain transformers on the same folder, and the base says what loads it."""
    base = load(sound)
    plain = AutoModelForCausalLM.from_pretrained(sound, attn_implementation="eager")
    base.model.set_attn_implementation("eager")
    with torch.no_grad():
        assert torch.equal(base.model(IDS).logits, plain(IDS).logits)
    assert (base.name_or_path, base.revision) == (str(sound), None)


def test_weights_are_read_straight_onto_the_device(sound: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of the base is held in the host's memory on the way; the device here is one that keeps no numbers."""
    monkeypatch.setattr(pretrained, "_require_finite", lambda *_: None)
    identity = {"source": "folder", "sha256": folder_digest(sound)}
    model, _ = pretrained.load_pretrained(identity, str(sound), None, torch.float32, torch.device("meta"))
    assert {weight.device.type for weight in model.parameters()} == {"meta"}


def test_adapter_names_what_loads_its_base(sound: Path, tmp_path: Path) -> None:
    """PEFT finds the base of a saved adapter by the adapter's own config."""
    base = load(sound)
    adapters = Adapters(base.model, LoraSpec(r=2), 1)
    (tmp_path / "adapter").mkdir()
    save_adapter(tmp_path / "adapter", adapters, torch.zeros(adapters.size), base.name_or_path, base.revision)
    loaded = AutoPeftModelForCausalLM.from_pretrained(tmp_path / "adapter")
    assert torch.equal(loaded.get_base_model().lm_head.weight, base.model.lm_head.weight)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_load_base_broken_folder_has_the_planners_error(case: Case, model: Path) -> None:
    case.damage(model)
    with pytest.raises(UserError) as planned:
        check_folder(model)
    with pytest.raises(UserError) as loaded:
        load(model)
    assert str(loaded.value) == str(planned.value)


def test_load_base_bare_decoder_with_head_is_complete(model: Path, sound: Path) -> None:
    """Names without `model.` are those of the same weights, as transformers reads them."""

    def change(tensors: Tensors) -> None:
        renamed = {name.removeprefix("model."): value for name, value in tensors.items()}
        tensors.clear()
        tensors.update(renamed)

    edit_tensors(change)(model)
    weights, expected = (dict(load(folder).model.named_parameters()) for folder in (model, sound))
    assert all(torch.equal(weights[name], weight) for name, weight in expected.items())


@pytest.mark.parametrize("change", ["missing", "extra", "reshaped"])
def test_load_base_other_family_weights_refused(change: str, tmp_path: Path) -> None:
    """A family whose weights the planner does not know: the loaded model's own list decides, in the same words."""
    folder = tmp_path / "olmo"
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    OlmoForCausalLM(OlmoConfig(**sizes, vocab_size=258, eos_token_id=256, pad_token_id=None)).save_pretrained(folder)
    write_tokenizer(folder)
    load(folder)
    name = "model.layers.1.mlp.up_proj.weight"

    def damage(tensors: Tensors) -> None:
        if change == "extra":
            tensors["model.layers.1.mlp.up_proj.bias"] = np.zeros(24, np.float32)
        elif change == "missing":
            del tensors[name]
        else:
            tensors[name] = tensors[name][:-1].copy()

    edit_tensors(damage)(folder)
    check_folder(folder)
    message = {"missing": "1 missing", "extra": "1 in no place", "reshaped": r"is \[23, 16\], expected \[24, 16\]"}
    with pytest.raises(UserError, match=f"E273.*{message[change]}"):
        load(folder)


def test_load_base_allowed_missing_weights_are_reproducible(model: Path) -> None:
    """Weights that may be missing are drawn from a fixed seed, and the process's own stream is left alone."""
    pop(HEAD)(model)
    drawn = []
    for _ in range(2):
        state = torch.get_rng_state()
        drawn.append(load(model, allow_missing=["lm_head.*"]).model.lm_head.weight)
        assert torch.equal(torch.get_rng_state(), state)
        torch.rand(3)
    assert torch.equal(*drawn)
    assert float(drawn[0].std()) > 0


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_load_base_not_finite_weight_is_named(value: float, model: Path, cache: Path) -> None:
    def change(tensors: Tensors) -> None:
        tensors["model.layers.1.mlp.down_proj.weight"][3, 4] = value

    edit_tensors(change)(model)
    with pytest.raises(UserError, match=r"E276.*model\.layers\.1\.mlp\.down_proj\.weight of the base"):
        load(model)
    assert not (cache / "finite").exists()


def test_load_base_finite_weights_are_checked_once(sound: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load(sound)
    assert len(list((cache / "finite").iterdir())) == 1
    monkeypatch.setattr(torch, "aminmax", lambda weight: pytest.fail("the weights were looked through again"))
    load(sound)


@pytest.mark.parametrize("key", ["_attn_implementation", "attn_implementation"])
def test_load_base_attention_of_config_is_ignored(key: str, model: Path, sound: Path) -> None:
    """A config cannot choose the attention implementation."""
    edit_json("config.json", **{key: "flash_attention_2"})(model)
    assert load(model).model.config._attn_implementation == load(sound).model.config._attn_implementation


def test_load_base_changed_folder_refused(model: Path) -> None:
    """Weights that are not those of the plan are refused as an integrity error."""
    identity = {"source": "folder", "sha256": folder_digest(model)}
    edit_tensors(lambda tensors: tensors["model.norm.weight"].__iadd__(1))(model)
    with pytest.raises(UserError, match="E301") as raised:
        load_base(identity, {"path": str(model)}, "float32")
    assert raised.value.exit_code == Exit.INTEGRITY


def test_load_base_library_error_is_a_user_error(model: Path) -> None:
    """Errors that no check foresees name the model and the library's reason."""
    edit_json("config.json", rope_parameters={"rope_type": "no such"})(model)
    with pytest.raises(UserError, match=r"E119.*cannot load model"):
        load(model)


def test_load_base_slow_tokenizer_refused(model: Path) -> None:
    (model / "tokenizer.json").unlink()
    (model / "vocab.json").write_text(json.dumps({"a": 0, "<unk>": 1}))
    (model / "merges.txt").write_text("#version: 0.2\n")
    edit_json("tokenizer_config.json", tokenizer_class="CTRLTokenizer")(model)
    with pytest.raises(UserError, match=r"E275.*slow"):
        load(model)


def test_known_types_are_those_of_transformers() -> None:
    """Names read from the source text are those that the library has once it is imported."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    assert causal_types() == set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
    assert {"t5", "bert", "qwen2_5_vl", "llama"} <= all_types()


FLAGS: list[Mapping[str, bool]] = [
    {},
    {"tie_word_embeddings": True},
    {"tie_word_embeddings": False},
    {"attention_bias": True, "mlp_bias": True},
]


@pytest.mark.parametrize("flags", FLAGS, ids=str)
@pytest.mark.parametrize("family", FAMILIES)
def test_expected_weights_are_those_of_transformers(family: str, flags: Mapping[str, bool]) -> None:
    """Names and shapes known without torch are the model's own, for every family and switch."""
    sizes = {key: CONFIG[key] for key in CONFIG if key.startswith(("hidden", "intermediate", "num_", "vocab", "max_"))}
    config = AutoConfig.for_model(family, **sizes, **flags, pad_token_id=None, bos_token_id=None, eos_token_id=None)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    written = json.loads(config.to_json_string())
    shapes = {name: tuple(weight.shape) for name, weight in model.state_dict().items()}
    tied = bool(config.tie_word_embeddings)
    if tied:
        del shapes[HEAD]
    assert is_tied(written) == tied
    assert expected_weights(written) == shapes
