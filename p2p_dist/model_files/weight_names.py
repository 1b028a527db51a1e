"""Names and shapes of the weights that an architecture has, compared with those that a checkpoint holds."""

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

from p2p_dist.errors import user_error
from p2p_dist.model_files.safetensors_header import TensorInfo

Shape = tuple[int | None, ...]
"""Sizes by dimension; None for one that config.json does not state."""
_SHOWN = 3
_MOST_LAYERS = 10_000
_DERIVED_HEAD_SIZE = ("llama", "mistral", "qwen2", "smollm3", "granite")
"""Families whose heads are hidden_size / num_attention_heads wide where the config does not say."""
_PREFIXES = ("module.", "_orig_mod.", "base_model.model.")
"""Prefixes that wrappers of a training leave in front of names."""
_BUFFERS = re.compile(r"(rotary_emb\.inv_freq|masked_bias|attn\.bias|position_ids)$")
"""Buffers that older versions of transformers stored; it ignores them."""
_LAYER = re.compile(r"(?:^|\.)(?:layers|h|blocks)\.(\d+)\.")


@dataclass(frozen=True)
class Family:
    """A dense decoder with the names of Llama: `model.layers.N.self_attn.q_proj.weight` and so on."""

    norms: Sequence[str] = ("input_layernorm", "post_attention_layernorm")
    head_norms: bool = False
    """Norms of queries and keys, over a head each."""
    biased: Sequence[str] = ()
    """Projections that always have a bias."""
    attention_bias: bool = False
    """`attention_bias` of the config gives biases to all four projections."""
    mlp_bias: bool = False
    """`mlp_bias` of the config gives biases to the MLP."""
    tied: bool = False
    """Head and embeddings are one matrix where the config does not say."""


_FOUR_NORMS = (*Family().norms, "pre_feedforward_layernorm", "post_feedforward_layernorm")
FAMILIES: Mapping[str, Family] = {
    "llama": Family(attention_bias=True, mlp_bias=True),
    "mistral": Family(),
    "qwen2": Family(biased=("q_proj", "k_proj", "v_proj")),
    "qwen3": Family(head_norms=True, attention_bias=True),
    "smollm3": Family(attention_bias=True, mlp_bias=True, tied=True),
    "granite": Family(attention_bias=True, mlp_bias=True),
    "gemma": Family(attention_bias=True, tied=True),
    "gemma2": Family(norms=_FOUR_NORMS, attention_bias=True, tied=True),
    "gemma3_text": Family(norms=_FOUR_NORMS, head_norms=True, attention_bias=True, tied=True),
}
"""Families whose weights are known exactly from config.json."""


@dataclass(frozen=True)
class Differences:
    """Weights that a checkpoint lacks, has beyond the architecture, or has in another shape."""

    missing: Sequence[str] = ()
    extra: Sequence[str] = ()
    reshaped: Sequence[tuple[str, Sequence[int], Shape]] = field(default=())
    """Name, shape in the checkpoint, and shape in the architecture."""

    @classmethod
    def of(cls, info: Mapping[str, Any]) -> "Differences":
        """Differences that transformers reports of a checkpoint that it loaded (`output_loading_info`)."""
        reshaped = [(name, tuple(stored), tuple(shape)) for name, stored, shape in sorted(info["mismatched_keys"])]
        return cls(sorted(info["missing_keys"]), sorted(info["unexpected_keys"]), reshaped)

    def without(self, patterns: Collection[str]) -> "Differences":
        """Differences but for names that match these patterns, which may be missing or extra."""

        def refused(names: Iterable[str]) -> list[str]:
            return [name for name in names if not any(fnmatchcase(name, pattern) for pattern in patterns)]

        return Differences(refused(self.missing), refused(self.extra), self.reshaped)

    def require_none(self, where: str, model_type: str) -> None:
        """Raises UserError E273 that names the first of each kind."""
        reshaped = [
            f"{name} is {_shown(shape)}, expected {_shown(expected)}" for name, shape, expected in self.reshaped
        ]
        kinds = [
            _listed("missing", self.missing),
            _listed("in no place of the architecture", self.extra),
            _listed("of another shape", reshaped),
        ]
        if any(kinds):
            what = f"weights are not those of the architecture {model_type}: {'; '.join(filter(None, kinds))}"
            raise user_error("E273", what, where, self._fix())

    def _fix(self) -> str:
        for prefix in _PREFIXES:
            if self.extra and all(name.startswith(prefix) for name in self.extra):
                return f"remove the prefix {prefix!r} from the names of the weights"
        fix = "use the checkpoint and the config.json that were saved together"
        if self.reshaped:
            return fix
        return f"{fix}; to draw missing weights at random and ignore others, set model.allow_missing to their names"


def expected_weights(config: Mapping[str, Any]) -> dict[str, Shape] | None:
    """Every weight of a model by name, but for the head where it is tied; None for a family that is not known here."""
    family = FAMILIES.get(str(config.get("model_type")))
    layers = _layer_count(config)
    if family is None or layers is None:
        return None
    hidden, vocabulary = _size(config, "hidden_size"), _size(config, "vocab_size")
    weights: dict[str, Shape] = {"model.embed_tokens.weight": (vocabulary, hidden), "model.norm.weight": (hidden,)}
    if not is_tied(config):
        weights["lm_head.weight"] = (vocabulary, hidden)
    layer = _layer_weights(config, family)
    weights |= {f"model.layers.{index}.{name}": shape for index in range(layers) for name, shape in layer.items()}
    return weights


def is_tied(config: Mapping[str, Any]) -> bool | None:
    """True if the head is the embedding matrix; None where neither config nor family says."""
    family = FAMILIES.get(str(config.get("model_type")))
    tied = config.get("tie_word_embeddings", family.tied if family else None)
    return tied if isinstance(tied, bool) else None


def compare(config: Mapping[str, Any], tensors: Mapping[str, TensorInfo]) -> Differences:
    """Differences that names and shapes alone show. Families that are not known here are asked for their layers."""
    expected = expected_weights(config)
    stored = {name: info for name, info in _with_prefix(tensors).items() if not _BUFFERS.search(name)}
    if expected is None:
        return _compare_layers(config, stored)
    optional = {"lm_head.weight"}
    reshaped = [
        (name, stored[name].shape, shape)
        for name, shape in expected.items()
        if name in stored and not _fits(stored[name].shape, shape)
    ]
    return Differences(
        sorted(expected.keys() - stored.keys()), sorted(stored.keys() - expected.keys() - optional), reshaped
    )


def _layer_weights(config: Mapping[str, Any], family: Family) -> dict[str, Shape]:
    hidden, intermediate, head = (_size(config, key) for key in ("hidden_size", "intermediate_size", "head_dim"))
    heads, kv_heads = _size(config, "num_attention_heads"), _size(config, "num_key_value_heads")
    queries = heads * head if heads and head else None
    keys = kv_heads * head if kv_heads and head else None
    projections: dict[str, Shape] = {
        "self_attn.q_proj": (queries, hidden),
        "self_attn.k_proj": (keys, hidden),
        "self_attn.v_proj": (keys, hidden),
        "self_attn.o_proj": (hidden, queries),
        "mlp.gate_proj": (intermediate, hidden),
        "mlp.up_proj": (intermediate, hidden),
        "mlp.down_proj": (hidden, intermediate),
    }
    weights: dict[str, Shape] = {f"{norm}.weight": (hidden,) for norm in family.norms}
    if family.head_norms:
        weights |= {f"self_attn.{norm}.weight": (head,) for norm in ("q_norm", "k_norm")}
    for name, shape in projections.items():
        weights[f"{name}.weight"] = shape
        part, _, leaf = name.partition(".")
        switch = family.attention_bias and config.get("attention_bias") if part == "self_attn" else None
        switch = family.mlp_bias and config.get("mlp_bias") if part == "mlp" else switch
        if switch or leaf in family.biased:
            weights[f"{name}.bias"] = (shape[0],)
    return weights


def _compare_layers(config: Mapping[str, Any], stored: Mapping[str, TensorInfo]) -> Differences:
    """Layers that are missing or too many; families with layers for speculative decoding have more."""
    nested = config.get("text_config")
    count = _layer_count(nested if isinstance(nested, Mapping) else config)
    stored = {name: info for name, info in stored.items() if "visual." not in name}  # its blocks have a count of theirs
    numbers = {int(match[1]) for name in stored if (match := _LAYER.search(name))}
    if count is None or not numbers or any("nextn" in key or "mtp" in key for key in config):
        return Differences()
    names = {int(match[1]): name for name in sorted(stored, reverse=True) if (match := _LAYER.search(name))}
    pattern = _LAYER.split(names[min(numbers)])[0] + _LAYER.search(names[min(numbers)])[0]  # type: ignore[index]
    missing = [re.sub(r"\d+\.$", f"{index}.*", pattern) for index in sorted(set(range(count)) - numbers)]
    return Differences(missing, [names[index] for index in sorted(numbers) if index >= count])


def _layer_count(config: Mapping[str, Any]) -> int | None:
    """Number of layers; None for one that the config does not say, or that no model has."""
    count = next((config[key] for key in ("num_hidden_layers", "n_layer", "num_layers") if key in config), None)
    return count if isinstance(count, int) and 0 <= count <= _MOST_LAYERS else None


def _with_prefix(tensors: Mapping[str, TensorInfo]) -> dict[str, TensorInfo]:
    """Names as the causal language model has them: a checkpoint of its decoder alone lacks `model.`."""
    if any(name.startswith("model.") for name in tensors) or not any(name.startswith("layers.") for name in tensors):
        return dict(tensors)
    return {name if name.startswith("lm_head.") else f"model.{name}": info for name, info in tensors.items()}


def _fits(shape: Sequence[int], expected: Shape) -> bool:
    return len(shape) == len(expected) and all(
        size is None or size == stored for stored, size in zip(shape, expected, strict=True)
    )


def _size(config: Mapping[str, Any], key: str) -> int | None:
    value = config.get(key)
    if key == "head_dim" and value is None and str(config.get("model_type")) in _DERIVED_HEAD_SIZE:
        hidden, heads = config.get("hidden_size"), config.get("num_attention_heads")
        return hidden // heads if isinstance(hidden, int) and isinstance(heads, int) and heads else None
    return value if isinstance(value, int) else None


def _shown(shape: Sequence[int | None]) -> str:
    return f"[{', '.join('any' if size is None else str(size) for size in shape)}]"


def _listed(kind: str, names: Sequence[str]) -> str:
    """`12 missing (a, b, c and 9 more)`, or nothing."""
    if not names:
        return ""
    rest = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{len(names)} {kind} ({', '.join(names[:_SHOWN])}{rest})"
