"""The weight scan of an adapter from elsewhere beside clean adapters."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from p2p_dist.config.study import LoraSpec
from p2p_dist.deployment.audit_weights import clean_adapters, scan
from p2p_dist.errors import UserError
from p2p_dist.modeling.adapter_config import write_config
from tests.cli.test_main import invoke

pytestmark = pytest.mark.torch
LAYERS = [f"model.layers.{layer}.self_attn.{kind}" for layer in (0, 1) for kind in ("q_proj", "v_proj")]


def adapter(folder: Path, seed: int, size: float = 1.0, dtype: torch.dtype = torch.float32) -> Path:
    stream = torch.Generator().manual_seed(seed)
    folder.mkdir(parents=True)
    tensors = {}
    for layer in LAYERS:
        for side, shape in (("A", (2, 12)), ("B", (10, 2))):
            name = f"base_model.model.{layer}.lora_{side}.weight"
            tensors[name] = (size * torch.randn(shape, generator=stream)).to(dtype)
    save_file(tensors, folder / "adapter_model.safetensors")
    write_config(folder, LoraSpec(r=2, alpha=4), LAYERS, None)
    return folder


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clean")
    for seed in range(6):
        adapter(folder / str(seed), seed)
    return folder


def test_scan_tells_an_adapter_of_other_size_from_clean_ones(clean: Path, tmp_path: Path) -> None:
    far = scan(adapter(tmp_path / "far", 50, 6.0), [clean])
    assert far.p == 1 / 7
    near = scan(adapter(tmp_path / "near", 50), [clean])
    assert near.adapter < far.adapter
    in_half = scan(adapter(tmp_path / "half", 50, dtype=torch.bfloat16), [clean])
    assert in_half.adapter == pytest.approx(near.adapter, rel=0.1)


def test_scan_needs_three_clean_adapters_of_the_same_layers(clean: Path, tmp_path: Path) -> None:
    one = adapter(tmp_path / "one", 1)
    with pytest.raises(UserError, match=r"E170.*3 are needed"):
        scan(one, [clean / "0", clean / "1"])
    with pytest.raises(UserError, match=r"E170.*no adapter here"):
        scan(tmp_path, [clean])
    (one / "adapter_model.safetensors").write_bytes(b"damaged")
    with pytest.raises(UserError, match=r"E170.*cannot read"):
        scan(one, [clean])


def test_clean_adapters_of_a_folder_are_all_below_it(clean: Path) -> None:
    assert [path.name for path in clean_adapters([clean, clean / "3"])] == list("012345")


def test_audit_model_prints_the_scan(clean: Path, tmp_path: Path) -> None:
    folder = adapter(tmp_path / "far", 50, 6.0)
    code, text, error = invoke("audit", "model", str(folder), "--clean-adapters", str(clean))
    assert code == 0, error
    assert "weights: distance" in text
    assert "(p = 0.14)" in text
