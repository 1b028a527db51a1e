"""NF4 for real: a base in 4 bits trains, and its adapters mean the same to PEFT on transformers' own 4-bit model."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from p2p_dist.config.model import resolve_model
from p2p_dist.config.study import LoraSpec, TrainSpec
from p2p_dist.errors import UserError
from p2p_dist.modeling import quantize
from p2p_dist.modeling.base import Base, load_base
from p2p_dist.modeling.forward import answer_logits
from p2p_dist.modeling.lora import Adapters
from p2p_dist.modeling.packing import pack
from p2p_dist.modeling.random_init import random_model
from p2p_dist.modeling.tokenization import Encoded
from p2p_dist.scheduling.study import configs_dir
from p2p_dist.training.adapter_io import load_adapter, save_adapter
from p2p_dist.training.cohort import train_cohort
from p2p_dist.training.train_run import TrainRun

TINY = resolve_model("tiny", configs_dir() / "models").identity
IDENTITY = {**TINY, "shape": {**TINY["shape"], "hidden": 64, "intermediate": 128, "head_dim": 32}}
ROWS = [
    Encoded(str(n), [(7 * n + 3 * at) % 256 for at in range(length)], [48 + n % 2])
    for n, length in enumerate([5, 19, 1, 33, 8])
]


def quantized() -> Base:
    return load_base(IDENTITY, {}, "float32", "nf4")


def test_peft_on_a_4_bit_model_says_the_same(tmp_path: Path) -> None:
    loaded = quantized()
    adapters = Adapters(loaded.model, LoraSpec(r=4, alpha=8), 1)
    (tmp_path / "adapter").mkdir()
    values = torch.randn(adapters.size, generator=torch.Generator().manual_seed(1)) * 0.3
    save_adapter(tmp_path / "adapter", adapters, values, "tiny")
    load_adapter(tmp_path / "adapter", adapters, 0)
    batch = pack([ROWS])
    with torch.no_grad():
        ours = answer_logits(loaded.model, batch.ids, batch.positions, batch.packed, batch.answers)
    random_model(IDENTITY["shape"])[0].save_pretrained(tmp_path / "base")
    settings = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.float32,
    )
    base = AutoModelForCausalLM.from_pretrained(
        tmp_path / "base", quantization_config=settings, dtype=torch.float32, device_map={"": "cpu"}
    )
    theirs = PeftModel.from_pretrained(base, tmp_path / "adapter").train(False)
    for layer in (layer for layer in base.modules() if hasattr(layer, "support_avx512bf16_for_cpu")):
        layer.support_avx512bf16_for_cpu = False  # on some CPUs it would answer in bfloat16
    with torch.no_grad():
        expected = torch.stack([theirs(torch.tensor([row.ids])).logits[0, -1] for row in ROWS])
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-5)
    plain = load_base(IDENTITY, {}, "float32").model
    away = (answer_logits(plain, batch.ids, batch.positions, batch.packed, batch.answers) - ours).abs().max()
    assert away > 1e-2, "4 bits are not 32"


def test_it_learns_and_its_weights_stay() -> None:
    loaded = quantized()
    before = {name: tensor.clone() for name, tensor in loaded.model.state_dict().items()}
    spec = TrainSpec(
        learning_rate=1e-2,
        num_train_epochs=30,
        global_batch=5,
        dtype="float32",
        quantization="nf4",
        lora=LoraSpec(r=4, dropout=0.0),
    )
    adapters = Adapters(loaded.model, spec.lora, 2)
    first, second = train_cohort(loaded, adapters, [TrainRun(spec, seed, ROWS) for seed in range(2)])
    assert max(first.loss, second.loss) < 0.3, "two labels guessed are 0.69"
    after = loaded.model.state_dict()
    kept = {name.replace("base.", ""): tensor for name, tensor in after.items() if "lora_" not in name}
    assert all(torch.equal(kept[name], tensor) for name, tensor in before.items())
    assert any(tensor.dtype == torch.uint8 for tensor in kept.values())


def test_without_the_library_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(UserError, match=r"E281.*quant"):
        quantize.bitsandbytes()


def test_no_code_is_fetched_for_it(tmp_path: Path) -> None:
    """bitsandbytes asks the package `kernels`, where it is there, for code from a hub."""
    (tmp_path / "kernels.py").write_text("raise SystemExit('asked for code')\n")
    code = (
        "import sys; from p2p_dist.modeling.quantize import bitsandbytes; bitsandbytes(); assert 'kernels' not in "
        "sys.modules; print('loaded')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "loaded\n", done.stderr
