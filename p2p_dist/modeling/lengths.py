"""Lengths of rows that a loaded model computes rightly: windows, chunks, and rotary frequencies that depend on the
length of a row."""

from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

from torch import nn

from p2p_dist.config.families import Limit, position_limit, rope_limit, row_limit
from p2p_dist.errors import user_error
from p2p_dist.modeling import attention


@dataclass(frozen=True)
class _Lengths:
    """Limits of one model. `ropes` are the modules whose frequencies depend on what they saw before (dynamic NTK)."""

    limit: Limit | None
    positions: Limit | None
    rope: int | None
    ropes: tuple[Any, ...]


_KNOWN: WeakKeyDictionary[nn.Module, _Lengths] = WeakKeyDictionary()


def require_length(model: Any, longest: int) -> None:
    """Raise UserError E294 where the longest row, in tokens, is too long for the model."""
    _require(model, longest, _lengths_of(model).limit)


def require_positions(model: Any, longest: int) -> None:
    """Raise UserError E294 where prompt and answer, in tokens, are more than the model can read."""
    _require(model, longest, _lengths_of(model).positions)


def _require(model: Any, longest: int, limit: Limit | None) -> None:
    if limit is not None and longest > limit.tokens:
        raise user_error(
            "E294",
            f"a row of {longest} tokens is longer than {limit.tokens}: {model.config.model_type} {limit.reason}",
            "train.max_length",
            f"set train.max_length={limit.tokens} or less, or choose another model",
        )


def takes_rows_apart(model: Any, longest: int) -> bool:
    """True where a batch with a row of `longest` tokens is computed row by row, and only one run at a time."""
    if model.config._attn_implementation != attention.NAME:
        return True
    rope = _lengths_of(model).rope
    return rope is not None and longest > rope


def takes_trees_apart(model: Any, longest: int) -> bool:
    """True where a prompt with its tree (`modeling.token_tree`), `longest` tokens in all, is not computed as one packed
    row, however short its continuations are."""
    limit = _lengths_of(model).limit
    return takes_rows_apart(model, longest) or (limit is not None and longest > limit.tokens)


def depends_on_length(model: Any, longest: int) -> bool:
    """True where rows of `longest` tokens are past the length at which rotary frequencies begin to depend on it."""
    rope = _lengths_of(model).rope
    return rope is not None and longest > rope


def require_packed(model: Any, longest: int, what: str) -> None:
    """Raise UserError E293 where rows of up to `longest` tokens are not computed in packed batches."""
    require_length(model, longest)
    if takes_rows_apart(model, longest):
        raise user_error(
            "E293",
            f"{what} is not built for models that are computed row by row ({model.config.model_type})",
            "model",
            "exclude the defense for this model",
        )


def before_forward(model: Any) -> None:
    """Let rotary frequencies forget longer rows."""
    for rope in _lengths_of(model).ropes:
        if rope.max_seq_len_cached != rope.original_max_seq_len:
            rope.register_buffer("inv_freq", rope.original_inv_freq.to(rope.inv_freq.device), persistent=False)
            rope.max_seq_len_cached = rope.original_max_seq_len


def _lengths_of(model: Any) -> _Lengths:
    if model not in _KNOWN:
        config = model.config.to_dict()
        ropes = tuple(module for module in model.modules() if getattr(module, "rope_type", None) == "dynamic")
        _KNOWN[model] = _Lengths(row_limit(config), position_limit(config), rope_limit(config), ropes)
    return _KNOWN[model]
