"""Every family computes what plain transformers and PEFT compute of each row alone."""

from pathlib import Path

import pytest

from p2p_dist.config.families import NO_TEXT
from tests.zoo.cases import ALL, CHOSEN
from tests.zoo.check import check

slow = pytest.mark.slow("all families: make test-zoo")


@pytest.fixture(autouse=True)
def no_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache without verdicts, so that every check is made."""
    monkeypatch.setenv("P2P_DIST_CACHE", str(tmp_path))


@pytest.mark.parametrize("name", [name if name in CHOSEN else pytest.param(name, marks=slow) for name in ALL])
def test_family_gives_the_numbers_of_rows_alone(name: str) -> None:
    """Loss, gradients, label scores and generated tokens, with an adapter that PEFT has read from disk."""
    case = ALL[name]
    outcome = check(name, case.family, case.changes)
    assert outcome.mode == case.mode
    assert outcome.loss < 1e-4
    assert outcome.gradients < 1e-4
    assert outcome.scores < 1e-4
    assert outcome.same_text or case.family in NO_TEXT
