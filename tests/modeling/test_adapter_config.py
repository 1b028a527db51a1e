"""Adapter configurations are PEFT's, and variants that would be computed wrongly are refused."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig
from safetensors.torch import load_file, save_file

from p2p_dist.config.model import resolve_model
from p2p_dist.config.study import LoraSpec
from p2p_dist.errors import UserError
from p2p_dist.modeling.adapter_config import read_config, write_config
from p2p_dist.modeling.base import load_base
from p2p_dist.modeling.lora import Adapters
from p2p_dist.modeling.merge import merge
from p2p_dist.scheduling.study import configs_dir
from p2p_dist.training.adapter_io import read_adapter, save_adapter

IDENTITY = resolve_model("tiny", configs_dir() / "models").identity
SPEC = LoraSpec(r=4, alpha=8.0)
GOLDEN = """{
 "base_model_name_or_path": "tiny",
 "bias": "none",
 "inference_mode": true,
 "lora_alpha": 8.0,
 "lora_dropout": 0.1,
 "peft_type": "LORA",
 "r": 4,
 "target_modules": [
  "q_proj",
  "v_proj"
 ],
 "task_type": "CAUSAL_LM"
}
"""


def test_write_config_bytes_are_golden(tmp_path: Path) -> None:
    write_config(tmp_path, SPEC, ["model.layers.0.v_proj", "model.layers.0.q_proj"], "tiny")
    assert (tmp_path / "adapter_config.json").read_text() == GOLDEN
    loaded = LoraConfig.from_pretrained(str(tmp_path))
    assert (loaded.r, loaded.lora_alpha, loaded.target_modules) == (4, 8.0, {"q_proj", "v_proj"})


def test_write_config_names_the_revision_of_a_hub_model(tmp_path: Path) -> None:
    """PEFT loads the base of an adapter by name and revision; a base of random weights has no name."""
    write_config(tmp_path, SPEC, ["model.layers.0.v_proj"], "org/name", "0" * 40)
    loaded = LoraConfig.from_pretrained(str(tmp_path))
    assert (loaded.base_model_name_or_path, loaded.revision) == ("org/name", "0" * 40)
    assert read_config(tmp_path).r == 4
    write_config(tmp_path, SPEC, ["model.layers.0.v_proj"], None)
    assert LoraConfig.from_pretrained(str(tmp_path)).base_model_name_or_path is None


def test_read_config_of_peft_itself_is_accepted(tmp_path: Path) -> None:
    LoraConfig(r=4, lora_alpha=6, target_modules=["q_proj"], init_lora_weights="gaussian").save_pretrained(tmp_path)
    config = read_config(tmp_path)
    assert (config.r, config.alpha, config.scale) == (4, 6.0, 1.5)


@pytest.mark.parametrize(
    ("setting", "name"),
    [
        ({"use_dora": True}, "use_dora=True"),
        ({"use_rslora": True}, "use_rslora=True"),
        ({"rank_pattern": {"q_proj": 8}}, "rank_pattern"),
        ({"alpha_pattern": {"q_proj": 8}}, "alpha_pattern"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"bias": "all"}, "bias=all"),
        ({"lora_bias": True}, "lora_bias=True"),
        ({"fan_in_fan_out": True}, "fan_in_fan_out=True"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights=pissa"),
        ({"peft_type": "LOHA"}, "peft_type=LOHA"),
        ({"of_a_later_version": {"x": 1}}, "of_a_later_version"),
        ({"layers_pattern": "layers", "layers_to_transform": None}, "layers_to_transform"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_read_config_of_a_variant_is_refused(tmp_path: Path, setting: dict[str, Any], name: str) -> None:
    (tmp_path / "adapter_config.json").write_text(json.dumps({**json.loads(GOLDEN), **setting}))
    with pytest.raises(UserError, match="E285") as caught:
        read_config(tmp_path)
    assert name in str(caught.value)


@pytest.mark.parametrize("text", ["", "{", "[]", None])
def test_read_config_damaged_is_an_integrity_error(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "adapter_config.json").write_text(text)
    with pytest.raises(UserError, match="E307") as caught:
        read_config(tmp_path)
    assert caught.value.exit_code == 3


@pytest.fixture
def saved(tmp_path: Path) -> tuple[Path, Adapters]:
    adapters = Adapters(load_base(IDENTITY, {}, "float32").model, SPEC, 1)
    save_adapter(tmp_path, adapters, torch.arange(adapters.size) / 7, "tiny")
    return tmp_path, adapters


def test_read_adapter_of_another_alpha_is_refused(saved: tuple[Path, Adapters]) -> None:
    """The tensors fit, and the adapter's output would be scaled wrongly."""
    other = Adapters(load_base(IDENTITY, {}, "float32").model, LoraSpec(r=4, alpha=16.0), 1)
    with pytest.raises(UserError, match=r"E307.*alpha=8"):
        read_adapter(saved[0], other)


def test_read_adapter_with_other_tensors_is_refused(saved: tuple[Path, Adapters]) -> None:
    folder, adapters = saved
    weights = folder / "adapter_model.safetensors"
    tensors = load_file(weights)
    first = adapters.layout[0].name
    assert torch.equal(read_adapter(folder, adapters), torch.arange(adapters.size) / 7)
    for changed, message in (
        ({name: tensors[name] for name in tensors if name != first}, f"missing tensor {first}"),
        ({**tensors, "base_model.model.lm_head.weight": torch.zeros(2)}, r"no place for: base_model\.model\.lm_head"),
        ({**tensors, first: tensors[first].T.contiguous()}, f"Tensor {first} is"),
    ):
        save_file(changed, weights)
        with pytest.raises(UserError, match=f"E307.*{message}"):
            read_adapter(folder, adapters)
    weights.write_bytes(b"x" * 40)
    with pytest.raises(UserError, match="E307"):
        read_adapter(folder, adapters)


def test_merge_of_a_variant_is_refused(saved: tuple[Path, Adapters]) -> None:
    config = saved[0] / "adapter_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "use_rslora": True}))
    with pytest.raises(UserError, match="E285"):
        merge(load_base(IDENTITY, {}, "float32"), saved[0])


def test_write_config_imports_peft_without_bitsandbytes(tmp_path: Path) -> None:
    """PEFT would import bitsandbytes, and with it torch's compiler; see `quantize` for the package `kernels`."""
    code = (
        "import sys; from pathlib import Path; import p2p_dist.modeling.adapter_config as file\n"
        "assert 'peft' not in sys.modules\n"
        f"file.read_config(Path({str(tmp_path)!r}))\n"
        "assert 'peft' in sys.modules and 'bitsandbytes' not in sys.modules\n"
    )
    (tmp_path / "adapter_config.json").write_text(GOLDEN)
    command = [sys.executable, "-W", "ignore", "-c", code]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
