"""Folders that are refused: one per kind of broken checkpoint, with the error that names it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from tests.model_folders import Tensors, edit_json, edit_tensors, remove, rewrite_header

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:0000\nsize 1234\n"


class Case(NamedTuple):
    """A broken folder: `damage` is done to a complete one; the error has this code and its message this text."""

    name: str
    damage: Callable[[Path], None]
    code: str
    message: str


def _drop(*names: str) -> Callable[[Path], None]:
    def change(tensors: Tensors) -> None:
        for name in [name for name in tensors if name.startswith(names)]:
            del tensors[name]

    return edit_tensors(change)


def _add(name: str, like: str) -> Callable[[Path], None]:
    return edit_tensors(lambda tensors: tensors.update({name: tensors[like].copy()}))


def _rename(rule: Callable[[str], str]) -> Callable[[Path], None]:
    def change(tensors: Tensors) -> None:
        renamed = {rule(name): value for name, value in tensors.items()}
        tensors.clear()
        tensors.update(renamed)

    return edit_tensors(change)


def _bare(folder: Path) -> None:
    _drop("lm_head")(folder)
    _rename(lambda name: name.removeprefix("model."))(folder)


def _classifier(tensors: Tensors) -> None:
    del tensors["lm_head.weight"]
    tensors["score.weight"] = tensors["model.embed_tokens.weight"][:2].copy()


def _cut(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def _pointer(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_text(POINTER) and None


def _narrow(tensors: Tensors) -> None:
    tensors["model.layers.1.mlp.up_proj.weight"] = tensors["model.layers.1.mlp.up_proj.weight"][:-1].copy()


def _adapter_beside(folder: Path) -> None:
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "base_model_name_or_path": "x/y"}))


def _adapter_only(folder: Path) -> None:
    _adapter_beside(folder)
    remove("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")(folder)


def _pickle(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def _stored_as(dtype: str) -> Callable[[Path], None]:
    def change(header: dict[str, Any]) -> None:
        header["model.layers.0.mlp.up_proj.weight"]["dtype"] = dtype

    return lambda folder: rewrite_header(folder, change)


def _lost_shard(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    weight_map = {"lm_head.weight": "model-00001-of-00002.safetensors", "x": "model-00002-of-00002.safetensors"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


def _long_vocabulary(folder: Path) -> None:
    content = json.loads((folder / "tokenizer.json").read_text())
    content["model"]["vocab"]["ĠĠ"] = 300
    (folder / "tokenizer.json").write_text(json.dumps(content))


CASES = [
    Case("head_missing", _drop("lm_head"), "E273", r"1 missing \(lm_head\.weight\)"),
    Case("layers_missing", _drop("model.layers.1."), "E273", r"9 missing \(model\.layers\.1\."),
    Case("more_layers_in_config", edit_json("config.json", num_hidden_layers=4), "E273", r"18 missing .* and 15 more"),
    Case("fewer_layers_in_config", edit_json("config.json", num_hidden_layers=1), "E273", "9 in no place"),
    Case("classifier", edit_tensors(_classifier), "E273", r"lm_head\.weight.*score\.weight"),
    Case("bare_decoder", _bare, "E273", r"1 missing \(lm_head\.weight\)"),
    Case("wrapped_names", _rename(lambda name: f"module.{name}"), "E273", "remove the prefix 'module.'"),
    Case("extra_bias", _add("model.layers.0.mlp.up_proj.bias", "model.norm.weight"), "E273", "1 in no place"),
    Case("another_shape", edit_tensors(_narrow), "E273", r"mlp\.up_proj\.weight is \[23, 16\], expected \[24, 16\]"),
    Case("another_vocabulary", edit_json("config.json", vocab_size=300), "E273", r"\[258, 16\], expected \[300, 16\]"),
    Case("fp8_over_plain", edit_json("config.json", quantization_config={"quant_method": "fp8"}), "E274", "fp8"),
    Case("gptq", edit_json("config.json", quantization_config={"quant_method": "gptq", "bits": 4}), "E274", "gptq"),
    Case("awq", edit_json("config.json", quantization_config={"quant_method": "awq"}), "E274", "awq"),
    Case("integers", _stored_as("I32"), "E274", r"up_proj\.weight is stored as I32"),
    Case("cut_off", _cut, "E272", "safetensors file is cut off"),
    Case("lfs_pointer", _pointer("model.safetensors"), "E272", "git-lfs pointer"),
    Case("lfs_tokenizer", _pointer("tokenizer.json"), "E272", "git-lfs pointer"),
    Case("empty_weights", lambda folder: (folder / "model.safetensors").write_bytes(b""), "E272", "0 bytes"),  # type: ignore[arg-type,return-value]
    Case("html_page", lambda folder: (folder / "model.safetensors").write_text("<html>" * 9), "E272", "damaged"),  # type: ignore[arg-type,return-value]
    Case("lost_shard", _lost_shard, "E272", "1 of 2 weight files are missing"),
    Case("no_weights", remove("model.safetensors"), "E272", "no weights"),
    Case("pickle_only", _pickle, "E272", "pickle"),
    Case("no_config", remove("config.json"), "E271", "no config.json"),
    Case("config_no_json", lambda folder: (folder / "config.json").write_text("{"), "E271", "no JSON"),  # type: ignore[arg-type,return-value]
    Case("config_a_list", lambda folder: (folder / "config.json").write_text("[]"), "E271", "found list"),  # type: ignore[arg-type,return-value]
    Case("no_model_type", edit_json("config.json", model_type=None), "E271", "no model_type"),
    Case("unknown_type", edit_json("config.json", model_type="llamma"), "E271", "did you mean 'llama'"),
    Case("encoder_decoder", edit_json("config.json", model_type="t5"), "E271", "no causal language model"),
    Case("encoder", edit_json("config.json", model_type="bert"), "E271", "no causal language model"),
    Case("vision", edit_json("config.json", model_type="gemma3", vision_config={"depth": 2}), "E271", "text alone"),
    Case("adapter_only", _adapter_only, "E271", "adapter .* and no model"),
    Case("adapter_beside", _adapter_beside, "E271", "a model and an adapter"),
    Case(
        "attention_of_a_hub", edit_json("config.json", _attn_implementation="kernels-community/x"), "E114", "run code"
    ),
    Case("attention_named", edit_json("config.json", attn_implementation="a/b"), "E114", "a/b"),
    Case("code_in_config", edit_json("config.json", auto_map={"AutoConfig": "x.Y"}), "E114", "auto_map"),
    Case("code_unknown_type", edit_json("config.json", model_type="new", auto_map={"A": "x.Y"}), "E114", "auto_map"),
    Case("code_in_tokenizer", edit_json("tokenizer_config.json", auto_map={"A": ["x.Y", None]}), "E114", "auto_map"),
    Case("no_tokenizer", remove("tokenizer.json", "tokenizer_config.json"), "E275", "no tokenizer"),
    Case("ids_beyond", _long_vocabulary, "E275", "1 ids beyond the 258 rows"),
]
