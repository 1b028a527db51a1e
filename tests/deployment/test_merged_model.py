"""Merged weights, file by file: what an adapter and a label map change, and what stays bit-equal."""

import json
import weakref
from pathlib import Path

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
    write_merged(BaseFiles(model), adapter, head, Precision(torch.float32, torch.float32), out)
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


def test_tensors_of_one_file_are_gone_before_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is held is one file's new tensors, whatever the size of the model."""
    from p2p_dist.deployment import merged_model

    model = model_folder(tmp_path / "model", tied=True)
    adapter = adapter_of(model, tmp_path / "adapter", 0.3)
    read_file, held, alive = merged_model._file, [], []

    def watched(*arguments):
        alive.append(sum(one() is not None for one in held))
        tensors = read_file(*arguments)
        held.extend(weakref.ref(tensor) for tensor in tensors.values())
        return tensors

    monkeypatch.setattr(merged_model, "_file", watched)
    merged(model, adapter, tmp_path / "out", swap=True)
    assert alive == [0] * len(alive)
    assert (len(alive), len(held)) == (3, 24)


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
