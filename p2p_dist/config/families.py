"""Model families as transformers names them (`model_type`): how rows are computed, and how long they may be.

A packed batch keeps rows apart in attention alone. Families that mix tokens elsewhere, or whose attention cannot be
replaced, are computed row by row through their own forward pass: slower, and right. What stands here is known without
loading a model; `modeling.guard` checks it on the loaded one.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from p2p_dist.errors import user_error
from p2p_dist.model_files.known_types import WITH_IMAGES

Mode = Literal["packed", "row by row"]

PACKED = frozenset(
    {
        "afmoe",
        "apertus",
        "arcee",
        "bitnet",
        "cohere",
        "cohere2",
        "cohere2_moe",
        "deepseek_v2",
        "deepseek_v3",
        "diffllama",
        "dots1",
        "ernie4_5",
        "ernie4_5_moe",
        "exaone4",
        "exaone_moe",
        "flex_olmo",
        "flint",
        "gemma",
        "gemma2",
        "gemma3_text",
        "glm",
        "glm4",
        "glm4_moe",
        "glm4_moe_lite",
        "gpt2",
        "gpt_bigcode",
        "gpt_neox",
        "gpt_oss",
        "granite",
        "granite_swa",
        "granitemoe",
        "granitemoe_swa",
        "granitemoeshared",
        "helium",
        "hunyuan_v1_dense",
        "hunyuan_v1_moe",
        "jais2",
        "jetmoe",
        "laguna",
        "llama",
        "llama4_text",
        "mimo_v2_flash",
        "minicpm3",
        "minimax_m2",
        "ministral",
        "ministral3",
        "mistral",
        "mixtral",
        "nanochat",
        "nemotron",
        "olmo",
        "olmo2",
        "olmo3",
        "olmoe",
        "opt",
        "persimmon",
        "phi",
        "phi3",
        "phimoe",
        "qwen2",
        "qwen2_5_vl",
        "qwen2_moe",
        "qwen3",
        "qwen3_moe",
        "seed_oss",
        "smollm3",
        "solar_open",
        "stablelm",
        "starcoder2",
        "vaultgemma",
    }
)
"""Families whose packed rows are those of plain transformers (`make test-zoo`)."""

WINDOWED = frozenset(
    {
        "afmoe",
        "cohere2",
        "cohere2_moe",
        "exaone4",
        "exaone_moe",
        "flint",
        "gemma2",
        "gemma3_text",
        "gpt_oss",
        "granite_swa",
        "granitemoe_swa",
        "laguna",
        "mimo_v2_flash",
        "ministral",
        "mistral",
        "mixtral",
        "olmo3",
        "phi3",
        "phimoe",
        "qwen2",
        "qwen2_5_vl",
        "qwen2_moe",
        "qwen3",
        "qwen3_moe",
        "smollm3",
        "starcoder2",
        "vaultgemma",
    }
)
"""Of those, families whose layers tell attention their sliding window."""

_RECURRENT = "mixes rows in convolutions or recurrent states"
_OWN_ATTENTION = "has attention of its own"
ROW_BY_ROW: Mapping[str, str] = {
    "bamba": _RECURRENT,
    "bloom": _OWN_ATTENTION,
    "codegen": _OWN_ATTENTION,
    "deepseek_v32": _OWN_ATTENTION,
    "doge": _OWN_ATTENTION,
    "falcon": _OWN_ATTENTION,
    "falcon_h1": _RECURRENT,
    "falcon_mamba": _RECURRENT,
    "gpt_neo": _OWN_ATTENTION,
    "gptj": _OWN_ATTENTION,
    "granitemoehybrid": _RECURRENT,
    "inkling_text": _OWN_ATTENTION,
    "jamba": _RECURRENT,
    "lfm2": _RECURRENT,
    "lfm2_moe": _RECURRENT,
    "mamba": _RECURRENT,
    "mamba2": _RECURRENT,
    "minimax": _RECURRENT,
    "mpt": _OWN_ATTENTION,
    "nemotron_h": _RECURRENT,
    "olmo_hybrid": _RECURRENT,
    "openai-gpt": _OWN_ATTENTION,
    "qwen3_5_text": _RECURRENT,
    "qwen3_next": _RECURRENT,
    "recurrent_gemma": _RECURRENT,
    "rwkv": _RECURRENT,
    "xglm": _OWN_ATTENTION,
}
"""Families whose rows are computed one by one, and why."""
NO_TEXT: Mapping[str, str] = {"recurrent_gemma": "wrote other texts in a batch than for each row alone"}
"""Families that may not write text, and why: the comparison of families (`make test-zoo`) found them wrong."""

ABSOLUTE_POSITIONS = frozenset({"gpt2", "gpt_bigcode", "gpt_neo", "openai-gpt", "opt", "biogpt"})
"""Families with one trained embedding per position: a longer row has none."""

_LENGTH_ROPES = ("dynamic", "longrope", "su")


@dataclass(frozen=True)
class Limit:
    """Most tokens of a row, and the reason."""

    tokens: int
    reason: str


def text_config(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The part of a `config.json` that describes the language model."""
    nested = config.get("text_config")
    return nested if isinstance(nested, Mapping) else config


def family_of_config(config: Mapping[str, Any]) -> str:
    """The family's name in transformers: that of the whole model where it reads images, else of its language model."""
    model_type = str(config.get("model_type"))
    return model_type if model_type in WITH_IMAGES else str(text_config(config).get("model_type"))


def mode_of(config: Mapping[str, Any]) -> Mode | None:
    """The known mode of a model by its `config.json`; None where only the loaded model can tell."""
    model_type = family_of_config(config)
    if model_type in ROW_BY_ROW:
        return "row by row"
    return "packed" if model_type in PACKED else None


def describe_mode(config: Mapping[str, Any], max_length: int) -> str:
    """The mode of rows of up to `max_length` tokens in words, for a plan."""
    model_type = family_of_config(config)
    mode = mode_of(config)
    if mode == "row by row":
        return f"row by row ({model_type} {ROW_BY_ROW[model_type]})"
    if mode == "packed" and (rope := rope_limit(config)) is not None and max_length > rope:
        return f"packed, and row by row past {rope} tokens, where rotary frequencies depend on the length of a row"
    return mode or f"packed or row by row ({model_type} is checked when the model is loaded)"


def require_text(model_type: str) -> None:
    """Raise UserError E293 for a family that may not write text."""
    if reason := NO_TEXT.get(model_type):
        raise user_error("E293", f"{model_type} {reason}", "model", "choose another model, or a task with labels")


def position_limit(config: Mapping[str, Any]) -> Limit | None:
    """Tokens that a model can read at most, prompt and answer together; None for no limit."""
    text = text_config(config)
    positions = next(
        (count for key in ("max_position_embeddings", "n_positions") if (count := _count(text.get(key)))), None
    )
    if str(text.get("model_type")) not in ABSOLUTE_POSITIONS or not positions:
        return None
    return Limit(positions, "has no more position embeddings")


def row_limit(config: Mapping[str, Any]) -> Limit | None:
    """The longest row that is computed rightly; None for no limit."""
    text = text_config(config)
    model_type = family_of_config(config)
    positions = position_limit(config)
    limits = [] if positions is None else [positions]
    if mode_of(config) != "row by row":
        if chunk := _count(text.get("attention_chunk_size")):
            limits.append(Limit(chunk, "attends in chunks of that length"))
        if (window := _window(text)) and model_type not in WINDOWED:
            limits.append(Limit(window, "has a sliding window of that length"))
    return min(limits, key=lambda limit: limit.tokens, default=None)


def layer_count(config: Mapping[str, Any]) -> int | None:
    """Number of decoder layers; None where the config does not say it by a known key."""
    text = text_config(config)
    return next(
        (count for key in ("num_hidden_layers", "n_layer", "num_layers") if (count := _count(text.get(key)))), None
    )


def rope_limit(config: Mapping[str, Any]) -> int | None:
    """Tokens beyond which a model's rotary frequencies depend on the length of the row (dynamic NTK, LongRoPE)."""
    text = text_config(config)
    limits = [
        tokens
        for rope in _ropes(text)
        if (rope.get("rope_type") or rope.get("type")) in _LENGTH_ROPES
        for holder in (rope, text, {"original_max_position_embeddings": text.get("max_position_embeddings")})
        if (tokens := _count(holder.get("original_max_position_embeddings")))
    ]
    return min(limits, default=None)


def _ropes(text: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Rotary settings of all kinds of layers."""
    settings = [text.get("rope_parameters"), text.get("rope_scaling")]
    given = [rope for rope in settings if isinstance(rope, Mapping)]
    return given + [nested for rope in given for nested in rope.values() if isinstance(nested, Mapping)]


def _window(text: Mapping[str, Any]) -> int | None:
    kinds = text.get("layer_types")
    if text.get("use_sliding_window") is False:
        return None
    if isinstance(kinds, list) and kinds and not any("sliding" in str(kind) for kind in kinds):
        return None
    return _count(text.get("sliding_window"))


def _count(value: Any) -> int | None:
    """A positive number of a config; None for anything else."""
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None
