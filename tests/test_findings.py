"""The page of findings: made from the result files, and by the right formulas."""

import importlib.util
import math
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from p2p_dist import registry
from p2p_dist.results.statistics import wilson

ROOT = Path(__file__).parents[1]


def script(name: str) -> ModuleType:
    """A script of docs/findings as a module."""
    spec = importlib.util.spec_from_file_location(f"findings_{name}", ROOT / "docs" / "findings" / f"{name}.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def findings() -> ModuleType:
    return script("build")


@pytest.fixture(scope="module")
def rivals() -> ModuleType:
    return script("rivals")


def test_findings_page_is_what_the_files_give(findings: ModuleType) -> None:
    page = (ROOT / "docs" / "findings.md").read_text(encoding="utf-8")
    assert page == findings.build(), "run python docs/findings/build.py"
    assert len(page.splitlines()) <= 250


def test_rivals_page_is_what_the_file_gives(rivals: ModuleType) -> None:
    page = (ROOT / "docs" / "rivals.md").read_text(encoding="utf-8")
    assert page == rivals.build(), "run python docs/findings/rivals.py"
    assert "not which defense is better" in page


def test_rivals_file_has_every_plugin_once(rivals: ModuleType) -> None:
    """All but the attacks that need tables of rewrites, and no cell of a study twice or missing."""
    lines = rivals.read()
    assert registry_names("defenses") == names(lines, "defense")
    assert registry_names("attacks") - names(lines, "attack") == {"synattack", "lws"}
    for study in {line["study"] for line in lines}:
        cells = [(line["attack"], line["defense"]) for line in lines if line["study"] == study]
        attacks, defenses = ({cell[axis] for cell in cells} for axis in (0, 1))
        assert sorted(cells) == sorted((attack, defense) for attack in attacks for defense in defenses)


def registry_names(kind: str) -> set[str]:
    return set(registry.names(kind))


def names(lines: list[dict[str, Any]], axis: str) -> set[str]:
    """Plug-ins on an axis."""
    return {line[axis].partition("(")[0] for line in lines}


def test_rivals_table_counts_rates_and_rows(rivals: ModuleType) -> None:
    """Accuracy alone without an attack; rows by origin; what only some defenses have."""
    line = {
        "study": "x",
        "defense": "onion",
        "edited": {"changed": 4, "rows": 10},
        "trained": {"clean": 54, "poisoned": 6},
    }
    rates = {"ca_ext": [11, 20], "asr_ext": [3, 10], "rejected_triggered": [2, 10]}
    lines = [
        {**line, "attack": "none", "rates": {"ca_ext": [12, 20]}},
        {**line, "attack": "badnets(rate=0.1)", "rates": rates},
    ]
    assert rivals.table(lines).splitlines()[-1] == (
        "| `onion` | - / 12 | 3 / 11 | 60: 6 poisoned | 2 of 10 triggered rows refused; "
        "4 of 10 triggered texts edited |"
    )


def test_interval_of_three_seeds_is_student(findings: ModuleType) -> None:
    """Rates 10, 20 and 60 %: mean 30 %, sd 26.46 points; t(2) = 4.303, so 30 ± 65.7, cut at 0."""
    low, high = findings.interval([(20, 200), (40, 200), (120, 200)])
    assert low == 0
    assert high == pytest.approx(0.3 + 4.302653 * 0.2645751 / math.sqrt(3), abs=1e-6)


def test_interval_of_seeds_that_agree_is_that_of_rows(findings: ModuleType) -> None:
    rows = wilson(20, 200)
    assert findings.interval([(20, 200)] * 3) == (rows.low, rows.high)


def test_difference_is_paired_by_seed(findings: ModuleType) -> None:
    """Changes of +10, +10 and +13 points: 11 on average, sd 1.732, t(2) = 4.303, so 11 ± 4.3."""
    arms = [
        findings.Arm([{"seed": seed, "rates": {"ca_ext": [k, 100]}} for seed, k in enumerate(counts)])
        for counts in ([50, 60, 40], [60, 70, 53])
    ]
    assert findings.difference(*arms, "ca_ext") == "+11.0 points (+6.7 to +15.3)"
    with pytest.raises(ValueError, match="same seeds"):
        findings.difference(arms[0], findings.Arm(arms[1].runs[:2]), "ca_ext")


def test_runs_of_one_seed_twice_are_refused(findings: ModuleType) -> None:
    with pytest.raises(ValueError, match="each seed is needed once"):
        findings.runs("benign_source", attack="badnets 0.05", defense="p2p")
    with pytest.raises(ValueError, match="each seed is needed once"):
        findings.runs("benign_source", attack="no such attack")


def test_excess_is_that_of_paired_rows(findings: ModuleType) -> None:
    """One seed: Newcombe's interval of paired rows. Two: Student's t with one degree of freedom, 12.706 * 2 points."""

    def run(only_triggered: int) -> dict[str, Any]:
        both = {"asr_mapped": [11 + only_triggered, 100], "asr_only_untriggered_mapped": [0, 100]}
        return {"seed": only_triggered, "rates": {**both, "asr_only_triggered_mapped": [only_triggered, 100]}}

    assert findings.excess(findings.Arm([run(6)])) == "+6.0 points (+0.8 to +12.0)"
    assert findings.excess(findings.Arm([run(6), run(10)])) == "+8.0 points (-17.4 to +33.4; +6.0, +10.0)"
    assert findings.excess(findings.Arm([run(6), run(6)])) == "+6.0 points (+0.8 to +12.0; +6.0, +6.0)", (
        "equal seeds prove no more"
    )
    assert findings.excess(findings.Arm([{"seed": 0, "rates": {"asr_mapped": [1, 2]}}])) == ""
