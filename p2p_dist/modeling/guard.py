"""Check of every base after loading: short rows packed against each alone through the model's own forward pass.

A base for which the two differ is computed row by row, or refused. The verdict is remembered per base, precision and
versions of the libraries. Missing weights, and what needs long rows to show, are checked elsewhere.
"""

import importlib.metadata
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from p2p_dist import assets
from p2p_dist.config.families import Mode, mode_of
from p2p_dist.config.identity import digest
from p2p_dist.errors import UserError, user_error
from p2p_dist.modeling import attention
from p2p_dist.modeling.body import OTHER_MODEL, family_of
from p2p_dist.modeling.forward import answer_logits, is_packed
from p2p_dist.modeling.image_guard import has_tower, rows_with_images
from p2p_dist.modeling.packing import pack
from p2p_dist.modeling.tokenization import Encoded
from p2p_dist.results.atomic import write_json

VERSION = 1
"""Raised when the check, or what it checks, changes."""
_LENGTHS = (5, 9, 5)
TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.1, torch.float16: 0.05}
"""Largest mean difference of logits, as a share of their mean distance from their mean. Rounding gives 1e-6 in float32
and 0.02 in bfloat16; rows that see each other, or a head without its scale, give 0.3 and more."""


def choose_attention(model: Any, key: Mapping[str, Any]) -> Mode:
    """Set the attention with which the model's rows are computed rightly, packed or else row by row.

    `key` names the base for the memory of verdicts. Raises UserError E293 where neither gives the model's own logits.
    """
    known = mode_of(model.config.to_dict())
    file = verdict_file(model, key)
    mode = remembered(file)
    if mode is None or known not in (None, mode):
        mode = _proven_mode(model, known)
        remember(file, mode)
    set_mode(model, mode)
    return mode


def plain_implementation(model: Any) -> str:
    """The attention of transformers for this model: torch's kernel where the model accepts it and needs no cap."""
    text = model.config.get_text_config()
    capped = getattr(text, "attn_logit_softcapping", None) is not None
    return "sdpa" if model._supports_sdpa and not capped else "eager"


def _proven_mode(model: Any, known: Mode | None) -> Mode:
    """The first mode that passes: the family's known one, or packed and then row by row."""
    modes: tuple[Mode, ...] = ("packed", "row by row") if known is None else (known,)
    expected = own_rows(model)
    reasons = []
    for mode in modes:
        try:
            set_mode(model, mode)
            apart = max(difference(ours, expected) for ours in _our_rows(model, mode))
            if has_tower(model):
                apart = max(apart, difference(*rows_with_images(model, _ids(model))))
        except (UserError, ValueError, TypeError, RuntimeError, AttributeError, KeyError, IndexError) as error:
            reasons.append(f"{mode}: {str(error).splitlines()[0][:160]}")
            continue
        if apart <= TOLERANCE[model.dtype]:
            return mode
        reasons.append(f"{mode}: logits differ by {apart:.2g} of their spread")
    what = f"{family_of(model)}: rows are not computed as the model's own forward pass does ({'; '.join(reasons)})"
    raise user_error("E293", what, "model", OTHER_MODEL)


def mode_now(model: Any) -> Mode:
    """The mode that `choose_attention` has set."""
    return "packed" if is_packed(model) else "row by row"


def set_mode(model: Any, mode: Mode) -> None:
    """Set the attention of a mode, without a check."""
    attention.use_implementation(model, attention.NAME if mode == "packed" else plain_implementation(model))


@torch.no_grad()
def own_rows(model: Any) -> torch.Tensor:
    """Logits of the rows' last two tokens by the model's own forward pass, each row alone: [2 * rows, V] in fp32.

    Raises UserError E293 where they are not finite.
    """
    before = model.config._attn_implementation
    attention.use_implementation(model, "eager")
    rows = [model(input_ids=torch.tensor([ids], device=model.device), use_cache=False).logits for ids in _ids(model)]
    attention.use_implementation(model, before)
    logits = torch.cat([row[0, -2:] for row in rows]).float()
    if not bool(logits.isfinite().all()):
        raise user_error(
            "E293", f"{family_of(model)}: the logits of short rows are not finite", "model", "check the weights"
        )
    return logits


@torch.no_grad()
def _our_rows(model: Any, mode: Mode) -> list[torch.Tensor]:
    """The same logits by our forward pass; packed rows twice, as those of two runs that have them in another order."""
    rows = [Encoded(str(index), ids, [0, 0]) for index, ids in enumerate(_ids(model))]
    runs = [rows, rows[::-1]] if mode == "packed" else [rows]
    batch = pack(runs).to(model.device)
    logits = answer_logits(model, batch.ids, batch.positions, batch.packed, batch.answers)
    first, *second = logits.split(2 * len(rows))
    return [first, *(torch.cat(part.split(2)[::-1]) for part in second)]


def _ids(model: Any) -> Sequence[list[int]]:
    """Rows of invented tokens from the middle of the vocabulary, none twice."""
    words = int(model.get_input_embeddings().weight.shape[0])
    numbers = iter(range(sum(_LENGTHS)))
    return [[(words // 3 + 7 * next(numbers)) % words for _ in range(length)] for length in _LENGTHS]


def difference(ours: torch.Tensor, expected: torch.Tensor) -> float:
    """Mean absolute difference, as a share of the mean distance of the logits from their mean."""
    spread = (expected - expected.mean(dim=-1, keepdim=True)).abs().mean()
    return float((ours - expected).abs().mean() / spread)


def verdict_file(model: Any, key: Mapping[str, Any], libraries: Sequence[str] = ()) -> Path:
    """File of the verdict on a base in these versions of the libraries."""
    versions = [importlib.metadata.version(name) for name in ("torch", "transformers", *libraries)]
    place = [str(model.dtype), model.device.type, type(model).__name__]
    return assets.cache_dir() / "checked" / f"{digest([VERSION, versions, place, dict(key)])}.json"


def remembered(file: Path) -> Mode | None:
    """The verdict, or None where there is none."""
    try:
        mode = json.loads(file.read_bytes())["mode"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return mode if mode in ("packed", "row by row") else None


def remember(file: Path, mode: Mode) -> None:
    """Write the verdict; a cache that cannot be written is no error."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_json(file, {"mode": mode})
    except OSError:
        return
