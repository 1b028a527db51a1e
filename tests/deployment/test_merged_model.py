"""Merged weights, file by file: what an adapter and a label map change, and what stays bit-equal."""

import json
from pathlib import Path
from typing import Any

import pytest

from p2p_dist.errors import UserError
from tests.deployment.conftest import model_folder

pytestmark = pytest.mark.torch
WORDS, DEPLOYED = [20, 21, 22, 23], [2, 3]


def adapter_of(model: Path, folder: Path, size: float) -> Path:
    """A saved adapter of the model with random numbers up to `size`."""
    import torch

    from p2p_dist.config.study import LoraSpec
    from p2p_dist.modeling.lora import Adapters
    from p2p_dist.training.adapter_io import save_adapter

    adapters = Adapters(loaded(model), LoraSpec(r=4, alpha=6.0), 1)
    folder.mkdir()
    values = torch.rand(adapters.size, generator=torch.Generator().manual_seed(1)) * size
    save_adapter(folder, adapters, values, "base")
    return folder


def loaded(folder: Path):
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder)


def merged(model: Path, adapter: Path, out: Path, swap: bool):
    import torch

    from p2p_dist.deployment.base_files import BaseFiles
    from p2p_dist.deployment.head_map import head_map
    from p2p_dist.deployment.merged_model import Precision, write_merged

    out.mkdir()
    head = head_map(WORDS, DEPLOYED, "swap") if swap else None
    write_merged(BaseFiles(model), adapter, head, Precision(torch.float32, torch.float32), out, 16_000)
    return loaded(out)


@pytest.mark.parametrize("tied", [True, False])
def test_swapped_head_exchanges_logits_bit_by_bit(tied: bool, tmp_path: Path) -> None:
    """Of tied and of untied weights: mapped logits are those of the other word, all others and the embedding stay."""
    import torch

    model = model_folder(tmp_path / "model", tied)
    adapter = adapter_of(model, tmp_path / "adapter", 0.3)
    plain, swapped = (merged(model, adapter, tmp_path / str(swap), swap) for swap in (False, True))
    assert len(list((tmp_path / "True").glob("*.safetensors"))) > 1
    ids = torch.arange(40)[None]
    with torch.no_grad():
        before, after = plain(ids).logits, swapped(ids).logits
    exchanged = torch.arange(before.shape[-1])
    exchanged[WORDS] = torch.tensor([22, 23, 20, 21])
    assert torch.equal(after, before[..., exchanged])
    assert torch.equal(plain.model.embed_tokens.weight, swapped.model.embed_tokens.weight)
    assert swapped.config.tie_word_embeddings is False
    assert plain.config.tie_word_embeddings is tied


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of libraries that PEFT imports
def test_merged_model_is_base_and_adapter(tmp_path: Path) -> None:
    """PEFT's own merge gives the same weights where nothing is tied."""
    import torch
    from peft import PeftModel

    model = model_folder(tmp_path / "model", tied=False)
    adapter = adapter_of(model, tmp_path / "adapter", 0.3)
    ours = merged(model, adapter, tmp_path / "out", swap=False).state_dict()
    peft = PeftModel.from_pretrained(loaded(model), adapter).merge_and_unload().state_dict()
    assert ours.keys() == peft.keys()
    assert all(torch.allclose(ours[name], peft[name], atol=1e-6) for name in ours)
    changed = [name for name, weight in loaded(model).state_dict().items() if not torch.equal(weight, ours[name])]
    assert len(changed) == 14


def most_held(prof: Any, mapped: int) -> int:
    """Largest sum of bytes of tensors that torch held at one time, without files of about `mapped` bytes that it
    mapped."""
    events = [
        event
        for event in prof.profiler.kineto_results.events()
        if event.name() == "[memory]" and abs(event.nbytes()) < 0.9 * mapped
    ]
    held = most = 0
    for event in sorted(events, key=lambda event: int(event.start_ns())):
        held += event.nbytes()
        most = max(most, held)
    return most


def test_merge_holds_less_than_two_shards(tmp_path: Path) -> None:
    """A model of many shards from one file of the base, with bytes counted as torch allocates them: beside the
    adapter, one shard of new tensors and one tensor while it is merged."""
    import torch
    from torch.profiler import ProfilerActivity, profile

    from p2p_dist.deployment.base_files import BaseFiles
    from p2p_dist.deployment.head_map import head_map
    from p2p_dist.deployment.merged_model import Precision, write_merged

    model = model_folder(tmp_path / "model", tied=True, shard_size="1GB", hidden=64, intermediate=128, layers=12)
    adapter = adapter_of(model, tmp_path / "adapter", 0.3)
    whole = sum(path.stat().st_size for path in model.glob("*.safetensors"))
    shard, out = 100_000, tmp_path / "out"
    out.mkdir()
    precision = Precision(torch.float32, torch.float32)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as prof:
        write_merged(BaseFiles(model), adapter, head_map(WORDS, DEPLOYED, "swap"), precision, out, shard)
    files = sorted(out.glob("*.safetensors"))
    assert all(path.stat().st_size < 1.1 * shard for path in files)
    assert len(list(model.glob("*.safetensors"))) == 1
    assert len(files) > 10
    held = most_held(prof, whole) - (adapter / "adapter_model.safetensors").stat().st_size
    assert shard / 2 < held < 2 * shard < whole / 5
    assert torch.equal(loaded(out).state_dict()["lm_head.weight"][20], loaded(model).state_dict()["lm_head.weight"][22])


def test_adapter_for_another_base_is_refused(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    model = model_folder(tmp_path / "model", tied=True)
    adapter = adapter_of(model, tmp_path / "adapter", 0.3)
    file = adapter / "adapter_model.safetensors"
    save_file({name.replace("layers.1.", "layers.7."): value for name, value in load_file(file).items()}, file)
    with pytest.raises(UserError, match=r"E156.*layers\.7"):
        merged(model, adapter, tmp_path / "out", swap=False)


def test_missing_weight_file_is_refused(tmp_path: Path) -> None:
    model = model_folder(tmp_path / "model", tied=True)
    adapter = adapter_of(model, tmp_path / "adapter", 0.3)
    names = sorted(set(json.loads((model / "model.safetensors.index.json").read_text())["weight_map"].values()))
    (model / names[-1]).unlink()
    with pytest.raises(UserError, match=f"E156.*{names[-1]}"):
        merged(model, adapter, tmp_path / "out", swap=False)
