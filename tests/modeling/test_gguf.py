"""GGUF files: every weight is the file's, or is named."""

from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import numpy as np
import pytest
import torch
from gguf import GGUFWriter
from tokenizers import pre_tokenizers

from p2p_dist.config.model import resolve_model
from p2p_dist.errors import UserError
from p2p_dist.model_files.weight_names import expected_weights
from p2p_dist.modeling import gguf
from p2p_dist.modeling.pretrained import load_pretrained, place_of
from p2p_dist.scheduling.study import configs_dir
from tests.model_folders import CONFIG, draw

NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "model.layers.": "blk.",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}
CPU = torch.device("cpu")


def write_gguf(path: Path, without: Collection[str] = ()) -> Path:
    """A Llama of two layers with a byte tokenizer, without these of its weights."""
    writer = GGUFWriter(path, "llama")
    writer.add_context_length(512)
    writer.add_embedding_length(CONFIG["hidden_size"])
    writer.add_block_count(CONFIG["num_hidden_layers"])
    writer.add_feed_forward_length(CONFIG["intermediate_size"])
    writer.add_head_count(CONFIG["num_attention_heads"])
    writer.add_head_count_kv(CONFIG["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(CONFIG["vocab_size"])
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list([*sorted(pre_tokenizers.ByteLevel.alphabet())[1:], "ab", "<|end|>", "<|begin|>"])
    writer.add_token_types([1] * 256 + [3] * 2)
    writer.add_token_merges(["a b"])
    writer.add_eos_token_id(256)
    writer.add_bos_token_id(257)
    expected = expected_weights(CONFIG)
    assert expected is not None
    for name, values in draw(expected).items():
        if name in without:
            continue
        for long, short in NAMES.items():
            name = name.replace(long, short)
        writer.add_tensor(name, np.ascontiguousarray(values))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("P2P_DIST_CACHE", str(tmp_path / "cache"))


def load(path: Path, **options: object) -> torch.nn.Module:
    model = resolve_model(str(path), configs_dir() / "models")
    place, revision = place_of(model.identity, model.local)
    return load_pretrained({**model.identity, **options}, place, revision, torch.float32, CPU)[0]


def test_gguf_weights_are_those_of_the_file(tmp_path: Path) -> None:
    model = load(write_gguf(tmp_path / "model.gguf"))
    expected = expected_weights(CONFIG)
    assert expected is not None
    written = torch.from_numpy(draw(expected)["model.layers.1.mlp.up_proj.weight"])
    assert torch.equal(model.get_parameter("model.layers.1.mlp.up_proj.weight"), written)


def test_gguf_missing_weights_refused_by_name(tmp_path: Path) -> None:
    """They would be drawn at random, unless the study allows it."""
    name = "model.layers.1.mlp.up_proj.weight"
    path = write_gguf(tmp_path / "model.gguf", without=[name])
    with pytest.raises(UserError, match=rf"E273.*1 missing \({name}\)"):
        load(path)
    assert torch.isfinite(load(path, allow_missing=[name]).get_parameter(name)).all()


def test_two_workers_may_unpack_a_file_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither fails, both get the same complete folder, and nothing else is left in the cache."""
    path = write_gguf(tmp_path / "model.gguf")
    convert, both = gguf._convert, Barrier(2, timeout=60)

    def converted_together(path: Path, folder: Path) -> None:
        convert(path, folder)
        both.wait()

    monkeypatch.setattr(gguf, "_convert", converted_together)
    with ThreadPoolExecutor(2) as workers:
        first, second = workers.map(lambda _: gguf.unpacked(path, "0" * 64), range(2))
    assert first == second
    assert (first / "model.safetensors").is_file()
    assert [entry.name for entry in first.parent.iterdir()] == [first.name]
