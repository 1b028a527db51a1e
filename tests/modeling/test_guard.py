"""A base whose rows would be computed wrongly is computed row by row, or refused before any data work."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaForCausalLM

from p2p_dist.errors import UserError
from p2p_dist.modeling import attention, guard
from p2p_dist.modeling.forward import is_packed
from p2p_dist.modeling.guard import choose_attention
from tests.zoo.families import tiny_config, tiny_model


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache without verdicts."""
    attention.register()
    monkeypatch.setenv("P2P_DIST_CACHE", str(tmp_path))
    return tmp_path


class NoisyHead(LlamaForCausalLM):
    """A model whose logits depend on how many positions are asked for: its head cannot be proven."""

    def forward(self, *args: Any, **settings: Any) -> Any:
        output = super().forward(*args, **settings)
        output.logits = output.logits * output.logits.shape[1]
        return output


def test_choose_attention_of_a_known_family_is_packed() -> None:
    model = tiny_model(tiny_config("llama"))
    assert choose_attention(model, {"name": "a"}) == "packed"
    assert is_packed(model)


def test_choose_attention_of_an_unknown_family_is_proven(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is known of either family; the rows tell."""
    monkeypatch.setattr(guard, "mode_of", lambda config: None)
    assert choose_attention(tiny_model(tiny_config("granite")), {}) == "packed"
    assert choose_attention(tiny_model(tiny_config("lfm2")), {}) == "row by row"


def test_choose_attention_of_a_wrong_family_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A family that a new version of transformers computes in another way is named."""
    monkeypatch.setattr(guard, "mode_of", lambda config: "packed")
    with pytest.raises(UserError, match=r"E293.*lfm2.*packed"):
        choose_attention(tiny_model(tiny_config("lfm2")), {})


def test_choose_attention_of_an_unproven_head_is_refused() -> None:
    model = tiny_model(tiny_config("llama"))
    model.__class__ = NoisyHead
    with pytest.raises(UserError, match=r"E293.*llama"):
        choose_attention(model, {})


def test_choose_attention_of_infinite_logits_is_refused() -> None:
    model = tiny_model(tiny_config("llama"))
    with torch.no_grad():
        model.model.norm.weight.fill_(torch.inf)
    with pytest.raises(UserError, match=r"E293.*not finite"):
        choose_attention(model, {})


def test_choose_attention_remembers_the_verdict(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second load makes no forward pass; another base does."""
    model = tiny_model(tiny_config("lfm2"))
    choose_attention(model, {"name": "a"})
    (file,) = (cache / "checked").iterdir()
    assert json.loads(file.read_bytes()) == {"mode": "row by row"}
    monkeypatch.setattr(guard, "own_rows", lambda model: pytest.fail("computed again"))
    assert choose_attention(model, {"name": "a"}) == "row by row"
    with pytest.raises(pytest.fail.Exception):
        choose_attention(model, {"name": "b"})
