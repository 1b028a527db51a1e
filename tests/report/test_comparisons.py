"""Which pairs are tested, on which rows, and that the correction runs over all of them; p values by scipy, not by our own code."""

from itertools import product
from pathlib import Path

import pytest
from scipy.stats import binomtest
from statsmodels.stats.multitest import multipletests

from p2p_dist.report import comparisons
from p2p_dist.report.comparisons import compare
from p2p_dist.report.study_data import Evidence
from p2p_dist.results.collect import RunState, read_study
from tests.results.test_index import SMALL
from tests.synthetic import make_study

STUDY = SMALL.replace("defense: [none, p2p]", "defense: [none, p2p, moddef]")


@pytest.fixture(scope="module")
def evidence(tmp_path_factory: pytest.TempPathFactory, data_root: Path) -> Evidence:
    folder = make_study(tmp_path_factory.mktemp("three"), data_root, STUDY)
    return Evidence(folder, read_study(folder, alive=False), {})


def run_of(evidence: Evidence, attack: str, defense: str, seed: str) -> RunState:
    (found,) = (run for run in evidence.found.runs if (run.cell["attack"], run.cell["defense"], run.cell["seed"]) == (attack, defense, seed))
    return found


def test_defended_against_attacked_and_rival_against_p2p(evidence: Evidence) -> None:
    found = compare(evidence)
    pairs = {(made.before.attack, made.before.defense, made.after.defense, made.rate) for made in found}
    wanted = [("none", "p2p"), ("none", "moddef"), ("p2p", "moddef")]
    assert pairs == {(attack, *pair, rate) for attack, pair, rate in product(("badnets", "addsent"), wanted, ("asr_ext", "ca_ext"))}
    assert len(found) == 12
    assert {made.seeds for made in found} == {2}


def test_p_values_are_of_the_same_rows_and_corrected_together(evidence: Evidence) -> None:
    found = compare(evidence)
    for made in found:
        p_values, changes = [], []
        for seed in ("0", "1"):
            before, after = (evidence.outcomes(run_of(evidence, made.before.attack, group.defense, seed))[made.rate] for group in (made.before, made.after))
            assert before.keys() == after.keys()
            lost, won = (sum(one[id_] and not other[id_] for id_ in before) for one, other in ((before, after), (after, before)))
            p_values.append(binomtest(won, won + lost).pvalue if won + lost else 1.0)
            changes.append((won - lost) / len(before))
        assert made.p == pytest.approx(max(p_values))
        assert made.difference.value == pytest.approx(sum(changes) / 2)
        assert made.difference.low <= made.difference.value <= made.difference.high
    adjusted = multipletests([made.p for made in found], method="holm")[1]
    assert [made.adjusted for made in found] == pytest.approx(list(adjusted))


def test_a_seed_that_only_one_side_has_is_left_out(evidence: Evidence) -> None:
    lost = run_of(evidence, "badnets", "p2p", "1")
    runs = [run for run in evidence.found.runs if run is not lost]
    fewer = Evidence(evidence.folder, type(evidence.found)("x", "", runs, evidence.found.results, []), {})
    seeds = {(made.before.defense, made.after.defense): made.seeds for made in compare(fewer) if made.before.attack == "badnets"}
    assert seeds == {("none", "p2p"): 1, ("none", "moddef"): 2, ("p2p", "moddef"): 1}


def test_large_studies_have_none(evidence: Evidence, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparisons, "LIMIT", 17)
    assert compare(evidence) == []
    assert "the study has 18 runs" in next(comparisons.left_out(evidence))
