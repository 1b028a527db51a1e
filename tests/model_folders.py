"""Tiny model folders, written from their description without torch, and ways to break them."""

import json
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from p2p_dist.model_files.weight_names import expected_weights

END, BEGIN = "<|end|>", "<|begin|>"
CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "vocab_size": 258,
    "max_position_embeddings": 512,
    "tie_word_embeddings": False,
    "torch_dtype": "float32",
    "bos_token_id": 257,
    "eos_token_id": 256,
}
Tensors = dict[str, np.ndarray[Any, np.dtype[Any]]]


def write_model(folder: Path, **changes: Any) -> Path:
    """Write a complete model folder of two layers, with settings of its config changed."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {**CONFIG, **changes}
    (folder / "config.json").write_text(json.dumps(config))
    expected = expected_weights(config)
    assert expected is not None
    save_tensors(folder, draw(expected))
    write_tokenizer(folder)
    return folder


def draw(shapes: Mapping[str, tuple[int | None, ...]]) -> Tensors:
    """Random weights of these shapes, norms about one, the same at every call."""
    random = np.random.default_rng(0)
    return {
        name: (random.standard_normal([size or 1 for size in shape]) * 0.2 + (len(shape) == 1)).astype(np.float32)
        for name, shape in shapes.items()
    }


def write_tokenizer(folder: Path, special: Mapping[str, str] = {"bos_token": BEGIN, "eos_token": END}) -> None:
    """Write a byte tokenizer with two control tokens, ids 256 and 257."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={char: id_ for id_, char in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([END, BEGIN])
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", **special}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def save_tensors(folder: Path, tensors: Tensors) -> None:
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def edit_tensors(change: Callable[[Tensors], None]) -> Callable[[Path], None]:
    """A way to break a folder: `change` gets its weights by name."""

    def edit(folder: Path) -> None:
        tensors = load_file(folder / "model.safetensors")
        change(tensors)
        save_tensors(folder, tensors)

    return edit


def edit_json(name: str, **changes: Any) -> Callable[[Path], None]:
    """A way to break a folder: keys of a JSON file are set, or removed where the value is None."""

    def edit(folder: Path) -> None:
        content = {**json.loads((folder / name).read_text()), **changes}
        (folder / name).write_text(json.dumps({key: value for key, value in content.items() if value is not None}))

    return edit


def remove(*names: str) -> Callable[[Path], None]:
    """A way to break a folder: files are removed."""

    def edit(folder: Path) -> None:
        for name in names:
            (folder / name).unlink()

    return edit


def rewrite_header(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Edit the header of a folder's weights; their bytes stay."""
    content = (folder / "model.safetensors").read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    change(header)
    text = json.dumps(header).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + content[8 + length :])
