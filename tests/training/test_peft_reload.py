"""Targets of which PEFT would read something else than was trained are refused before training."""

from pathlib import Path

import pytest
import torch

from p2p_dist.config.study import LoraSpec
from p2p_dist.errors import UserError
from p2p_dist.modeling import guard
from p2p_dist.modeling.base_cache import _looks
from p2p_dist.training.peft_reload import require_same_in_peft
from tests.zoo.check import tiny_base


@pytest.fixture(autouse=True)
def no_verdicts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache without verdicts."""
    monkeypatch.setenv("P2P_DIST_CACHE", str(tmp_path))


def test_require_same_in_peft_leaves_the_base_as_it_was() -> None:
    base = tiny_base("llama")
    before, logits = _looks(base), guard.own_rows(base.model)
    require_same_in_peft(base, LoraSpec(r=2), {})
    assert _looks(base) == before
    assert torch.equal(guard.own_rows(base.model), logits)


def test_require_same_in_peft_names_targets_that_peft_drops() -> None:
    """PEFT maps the MLP targets of some mixtures of experts to fused experts, and drops dense and shared MLPs."""
    base = tiny_base("glm4_moe")
    with pytest.raises(
        UserError, match=r"E296.*glm4_moe.*gate_proj.*target_modules=\[k_proj, o_proj, q_proj, v_proj\]"
    ):
        require_same_in_peft(base, LoraSpec(r=2), {})
    require_same_in_peft(base, LoraSpec(r=2, target_modules=("q_proj", "v_proj")), {})


def test_require_same_in_peft_refused_by_peft_leaves_the_base() -> None:
    """PEFT wraps layer after layer until it meets one of Mamba's that it refuses."""
    base = tiny_base("nemotron_h")
    before, logits = _looks(base), guard.own_rows(base.model)
    with pytest.raises(UserError, match=r"E296.*nemotron_h.*out_proj.*target_modules=\[down_proj, in_proj, k_proj"):
        require_same_in_peft(base, LoraSpec(r=2), {})
    assert _looks(base) == before
    assert torch.equal(guard.own_rows(base.model), logits)


def test_require_same_in_peft_names_targets_with_other_logits() -> None:
    """PEFT reads the shared MLP of laguna as something else, and its attention as it was trained."""
    base = tiny_base("laguna")
    others = (
        r"others with those of down_proj, gate_proj, up_proj.*target_modules=\[g_proj, k_proj, o_proj, q_proj, v_proj"
    )
    with pytest.raises(UserError, match=f"E296.*laguna.*{others}"):
        require_same_in_peft(base, LoraSpec(r=2), {})


def test_require_same_in_peft_remembers_what_passed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second training on a base does not load PEFT again; other targets do."""
    base = tiny_base("llama")
    require_same_in_peft(base, LoraSpec(r=2), {})
    monkeypatch.setattr(guard, "own_rows", lambda model: pytest.fail("computed again"))
    require_same_in_peft(base, LoraSpec(r=2), {})
    with pytest.raises(pytest.fail.Exception):
        require_same_in_peft(base, LoraSpec(r=2, target_modules=("q_proj",)), {})
