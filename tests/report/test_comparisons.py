"""Pairs that are tested, on which rows, and that the correction runs over all of them; p values by scipy, not by our
own code."""

from itertools import product
from pathlib import Path

import pandas as pd
import pytest
from scipy.stats import t
from statsmodels.formula.api import ols
from statsmodels.stats.anova import anova_lm
from statsmodels.stats.multitest import multipletests

from p2p_dist.report import comparisons
from p2p_dist.report.comparisons import compare
from p2p_dist.report.study_data import StudyData
from p2p_dist.results.collect import RunState, read_study
from tests.results.test_index import SMALL
from tests.synthetic import make_study

STUDY = SMALL.replace("defense: [none, p2p]", "defense: [none, p2p, moddef]")


@pytest.fixture(scope="module")
def study_data(tmp_path_factory: pytest.TempPathFactory, data_root: Path) -> StudyData:
    folder = make_study(tmp_path_factory.mktemp("three"), data_root, STUDY)
    return StudyData(folder, read_study(folder, alive=False), {})


def run_of(study_data: StudyData, attack: str, defense: str, seed: str) -> RunState:
    (found,) = (
        run
        for run in study_data.collected.runs
        if (run.cell["attack"], run.cell["defense"], run.cell["seed"]) == (attack, defense, seed)
    )
    return found


def test_defended_against_attacked_and_rival_against_p2p(study_data: StudyData) -> None:
    found = compare(study_data)
    pairs = {(made.before.attack, made.before.defense, made.after.defense, made.rate) for made in found}
    wanted = [("none", "p2p"), ("none", "moddef"), ("p2p", "moddef")]
    assert pairs == {
        (attack, *pair, rate) for attack, pair, rate in product(("badnets", "addsent"), wanted, ("asr_ext", "ca_ext"))
    }
    assert len(found) == 12
    assert {made.seeds for made in found} == {2}


def independent_p(changes: list[list[float]]) -> float:
    """p of a mean over seeds and rows from the sums of squares of statsmodels' two-way analysis of variance."""
    frame = pd.DataFrame(
        [(seed, row, value) for seed, line in enumerate(changes) for row, value in enumerate(line)],
        columns=["seed", "row", "value"],
    )
    if not frame.value.any():
        return 1.0
    squares = anova_lm(ols("value ~ C(seed) + C(row)", frame).fit())
    mean_squares, freedom = squares["sum_sq"] / squares["df"], squares["df"]
    of_seed, of_row, error = mean_squares
    total = max(of_seed + of_row - error, of_seed, of_row)
    below = sum(square**2 / count for square, count in zip(mean_squares, freedom, strict=True))
    degrees = max(1.0, max(of_seed + of_row - error, 0.0) ** 2 / below)
    return float(2 * t.sf(abs(frame.value.mean()) / (total / len(frame)) ** 0.5, degrees))


def test_p_values_are_of_the_same_rows_and_corrected_together(study_data: StudyData) -> None:
    found = compare(study_data)
    for made in found:
        tables, changes = [], []
        for seed in ("0", "1"):
            before, after = (
                study_data.outcomes(run_of(study_data, made.before.attack, group.defense, seed))[made.rate]
                for group in (made.before, made.after)
            )
            assert before.keys() == after.keys()
            lost, won = (
                sum(one[id_] and not other[id_] for id_ in before) for one, other in ((before, after), (after, before))
            )
            tables.append([float(after[id_]) - float(before[id_]) for id_ in sorted(before)])
            changes.append((won - lost) / len(before))
        assert made.p == pytest.approx(independent_p(tables))
        assert made.difference.value == pytest.approx(sum(changes) / 2)
        assert made.difference.low <= made.difference.value <= made.difference.high
    adjusted = multipletests([made.p for made in found], method="holm")[1]
    assert [made.adjusted for made in found] == pytest.approx(list(adjusted))


def test_a_seed_that_only_one_side_has_is_left_out(study_data: StudyData) -> None:
    lost = run_of(study_data, "badnets", "p2p", "1")
    runs = [run for run in study_data.collected.runs if run is not lost]
    fewer = StudyData(
        study_data.folder, type(study_data.collected)("x", "", runs, study_data.collected.results, []), {}
    )
    seeds = {
        (made.before.defense, made.after.defense): made.seeds
        for made in compare(fewer)
        if made.before.attack == "badnets"
    }
    assert seeds == {("none", "p2p"): 1, ("none", "moddef"): 2, ("p2p", "moddef"): 1}


def test_large_studies_have_none(study_data: StudyData, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparisons, "LIMIT", 17)
    assert compare(study_data) == []
    assert "the study has 18 runs" in next(comparisons.left_out(study_data))
