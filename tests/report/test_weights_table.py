"""The table of the weight scan, on adapters with invented statistics."""

from dataclasses import replace
from pathlib import Path

from p2p_dist.report.study_data import StudyData
from p2p_dist.report.tables import weights
from p2p_dist.results import atomic
from p2p_dist.results.collect import RunState
from tests.report.invented_runs import run, shown, study_data


def adapter_statistics(data: StudyData, one: RunState, value: float) -> None:
    norms = {"layers.0.q_proj": value, "layers.1.q_proj": value**2}
    file = data.folder.at("train", str(one.ids["train"])).weights
    file.parent.mkdir(parents=True)
    atomic.write_json(file, {"modules": {"q_proj": {"norm": value, "entropy": 1 / value}}, "norms": norms})


def study(tmp_path: Path, *poisoned: float) -> StudyData:
    """Three clean adapters with norms about 1, and poisoned ones with these."""
    clean = [run("none", seed, attack="none") for seed in range(3)]
    attacked = [run("none", seed) for seed in range(len(poisoned))]
    attacked = [
        replace(one, ids={**one.ids, "train": f"bad{seed}"}, stages=[replace(one.stages[0], id=f"bad{seed}")])
        for seed, one in enumerate(attacked)
    ]
    data = study_data(tmp_path, *clean, *attacked)
    for one, value in zip([*clean, *attacked], [1.0, 1.1, 1.2, *poisoned], strict=True):
        adapter_statistics(data, one, value)
    return data


def test_weights_table_sets_poisoned_beside_clean(tmp_path: Path) -> None:
    (table,) = weights.build(study(tmp_path, 5.0, 5.0))
    rows = shown(table)
    assert [row[2] for row in rows] == ["none", "badnets"]
    assert rows[0][4] == "3"
    assert rows[1][4] == "2"
    assert (rows[0][6], rows[0][8]) == ("–", "–")
    assert rows[1][6] == "1.00 2 x 3"
    # Seed 1 is compared with the clean seeds 0 and 2, not with that of its own start: 10 of the norm, which is capped,
    # and (11/12 - 1/5) / (sqrt(2) / 12) = 6.08 of the entropy.
    assert rows[1][5] == "9.02 8.04 to 10.00"


def test_weights_table_of_adapters_like_the_clean_ones(tmp_path: Path) -> None:
    (table,) = weights.build(study(tmp_path, 1.1, 1.0))
    assert shown(table)[1][6].startswith("0.")


def test_weights_table_is_absent_without_three_clean_adapters(tmp_path: Path) -> None:
    runs = [run("none", seed, attack="none") for seed in range(2)]
    data = study_data(tmp_path, *runs)
    for seed, one in enumerate(runs):
        adapter_statistics(data, one, 1.0 + seed)
    assert weights.build(data) == []


def test_auc_counts_ties_half() -> None:
    assert weights.auc([2.0, 1.0], [1.0]) == 0.75
