"""Tables on cases small enough to read off by hand."""

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from p2p_dist.report import run_columns as one_table
from p2p_dist.report.table import without_empty_columns
from p2p_dist.report.tables import against_paper, costs, layout, means, theory, worst
from p2p_dist.report.tables import runs as runs_table
from p2p_dist.report.terminal import MOST_RUNS, rich_table
from p2p_dist.results.collect import RunState, StageState
from p2p_dist.results.resultfile import Result
from tests.report.invented_runs import rate, run, shown, study_data
from tests.results.test_resultfile import body


def test_layout_marks_the_best_and_shows_seeds(tmp_path: Path) -> None:
    runs = [run("none", ca_ext=rate(90, 100), asr_ext=rate(50, 50))]
    runs += [run("p2p", seed, ca_ext=rate(91 + seed, 100), asr_ext=rate(2 + seed, 50)) for seed in (0, 1)]
    (table,) = layout.build(study_data(tmp_path, *runs))
    assert shown(table)[0][2:] == [
        "90.0 [82.6, 94.5] n=100",
        "100.0 [92.9, 100.0] n=50",
        "91.5 ± 0.7 n=2×100",
        "5.0 ± 1.4 n=2×50",
    ]
    assert [cell.best for cell in table.rows[0]] == [False, False, False, False, True, True]


def test_labels_too_long_for_a_column_are_written_below() -> None:
    """Labels that are too long for a column are written out below."""
    longs = ["p2p(benign_source=screened, ratio=0.4)", "p2p(benign_source=random_from_D)"]
    runs = [run(name, ca_ext=rate(90, 100)) for name in ("none", *longs)]
    runs[0] = replace(runs[0], cell={**runs[0].cell, "model": "somebody/a-model-of-a-long-name"})
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(rich_table(one_table.axes(runs), one_table.rows(runs)))
    said = console.export_text().splitlines()
    assert [line.split()[2:4] for line in said if "#" in line][:2] == [["p2p", "#1"], ["p2p", "#2"]]
    assert [line.strip() for line in said[-2:]] == [f"p2p #1: {longs[0]}", f"p2p #2: {longs[1]}"]


def test_terminal_shows_the_first_of_many_runs() -> None:
    runs = [run("p2p", seed, ca_ext=rate(90, 100)) for seed in range(MOST_RUNS + 1)]
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(rich_table(one_table.axes(runs), one_table.rows(runs)))
    said = " ".join(console.export_text().split())
    assert said.count("90/100") == MOST_RUNS
    assert f"the first {MOST_RUNS} of {MOST_RUNS + 1} runs; all are in the report and its tables/runs.csv" in said


def test_what_a_defense_needs_stands_beside_its_rates(tmp_path: Path) -> None:
    plain, p2p = (
        run("none", ca_ext=rate(90, 100), asr_ext=rate(50, 50)),
        run("p2p", ca_ext=rate(91, 100), asr_ext=rate(5, 50)),
    )
    (rates,) = layout.build(study_data(tmp_path, plain, p2p))
    assert rates.feet == [
        ("clean rows", {"no defense": "none", "P2P": "ratio x training rows"}),
        ("extra models", {"no defense": "none", "P2P": "none"}),
        ("controls the prompt", {"no defense": "no", "P2P": "yes"}),
        ("controls the decoding", {"no defense": "no", "P2P": "yes"}),
        ("seconds per run", {"no defense": "10", "P2P": "10"}),
    ]
    for table in (*worst.build(study_data(tmp_path, plain, p2p)), *runs_table.build(study_data(tmp_path, plain, p2p))):
        at = next(at for at, head in enumerate(table.head) if head.text == "defense")
        assert [row[at].detail for row in table.rows] == ["", "needs clean rows, prompt, decoding"]


def test_the_paper_stands_beside_ours_with_the_difference(tmp_path: Path) -> None:
    runs = [
        run("none", ca_strict=rate(1722, 1821), asr_strict=rate(910, 912)),
        run("p2p", ca_strict=rate(1743, 1821), asr_strict=rate(91, 912)),
    ]
    (table,) = against_paper.build(study_data(tmp_path, *runs))
    undefended, defended = shown(table)
    assert undefended[4:] == [
        "1",
        "94.56",
        "94.6 [93.4, 95.5] n=1821",
        "+0.0 inside our 95 % interval over rows (Wilson)",
        "99.78",
        "99.8 [99.2, 99.9] n=912",
        "+0.0 inside our 95 % interval over rows (Wilson)",
    ]
    assert defended[8:] == ["6.03", "10.0 [8.2, 12.1] n=912", "+3.9"]
    assert len(table.head) == 5 + 2 * 3, "no columns of figures that no line has"
    seeds = [run("p2p", seed, asr_strict=rate(55 + seed, 912)) for seed in (0, 1)]
    (table,) = against_paper.build(study_data(tmp_path, *seeds))
    assert shown(table)[0][-1] == "+0.1 inside one standard deviation over 2 seeds", "no rows, so no interval"
    assert against_paper.build(study_data(tmp_path, run("none", attack="of_tomorrow", ca_strict=rate(1, 2)))) == []


def test_rouge_stands_beside_the_papers_table_11(tmp_path: Path) -> None:
    summary = run("p2p", asr_ext=rate(2, 500))
    summary.cell["task"] = "crrsum"  # type: ignore[index]
    figures = {"rouge1": {"mean": 0.53, "n": 1029}, "rougeL": {"mean": 0.51, "n": 1029}}
    results = {
        "ep2p0": Result.model_validate({**body(), "schema": 2, "labels": None, "histograms": {}, "means": figures})
    }
    (table,) = against_paper.build(study_data(tmp_path, summary, results=results))
    assert [head.group for head in table.head[5::3]] == ["ASR ↓", "ROUGE-1 ↑", "ROUGE-2 ↑", "ROUGE-L ↑"]
    line = shown(table)[0]
    assert line[4:8] == ["11", "0.20", "0.4 [0.1, 1.4] n=500", "+0.2 inside our 95 % interval over rows (Wilson)"]
    assert line[8:] == ["53.20", "53.0 n=1029", "−0.2", "41.76", "–", "–", "50.78", "51.0 n=1029", "+0.2"]


def test_worst_case_is_taken_over_variants_and_net_of_the_floor(tmp_path: Path) -> None:
    one = run("p2p", floor=40, asr_ext=rate(55, 912), **{"asr_ext.repeated": rate(120, 912)})
    two = run("p2p", attack="addsent", floor=40, asr_ext=rate(30, 912))
    (table,) = worst.build(study_data(tmp_path, one, two))
    assert shown(table)[0][2:] == [
        "P2P needs clean rows, prompt, decoding",
        "13.2 [11.1, 15.5] n=912",
        "badnets/repeated",
        "3",
        "–",
        "–",
    ]
    (table,) = worst.build(study_data(tmp_path, run("p2p", floor=40, asr_ext=rate(55, 912)), two))
    assert shown(table)[0][4:] == ["badnets", "2", "+1.6 [−0.4, +3.7]", "–"]
    read_twice = run("p2p", asr_ext=rate(55, 912), asr_mapped=rate(600, 912), ext_rate=rate(300, 912))
    (table,) = worst.build(study_data(tmp_path, read_twice, two))
    assert shown(table)[0][4] == "badnets, mapped", "the larger of the two readings"


def test_net_asr_is_above_its_models_baseline_mean_over_seeds(tmp_path: Path) -> None:
    """Net asr is above the floor of its own model and of several seeds the mean."""
    small, large = (run("p2p", floor=floor, asr_ext=rate(684, 912)) for floor in (0, 228))
    small.cell["model"] = "small"  # type: ignore[index]
    (table,) = worst.build(study_data(tmp_path, small, large))
    assert [line[6].split()[0] for line in shown(table)] == ["+75.0", "+50.0"]
    seeds = [run("p2p", seed, floor=114, asr_ext=rate(hits, 912)) for seed, hits in enumerate((228, 456, 684))]
    (table,) = worst.build(study_data(tmp_path, *seeds))
    assert shown(table)[0][3:] == ["50.0 ± 25.0 n=3×912", "badnets", "1", "+37.5 ± 25.0 n=3×912", "–"]


def test_cost_says_what_a_defense_takes_for_granted(tmp_path: Path) -> None:
    table = costs.build(
        study_data(
            tmp_path, run("none", ca_ext=rate(1, 2)), run("p2p", ca_ext=rate(1, 2)), run("gone", ca_ext=rate(1, 2))
        )
    )[0]
    none, p2p, gone = shown(table)
    assert none[1:5] == ["none", "none", "no", "no"]
    assert p2p[3:8] == ["yes", "yes", "40", "1", "10"], "a third of a cohort's 30 seconds"
    assert gone[1:5] == ["–", "–", "–", "–"]


def test_energy_is_shown_only_where_every_model_stage_has_it(tmp_path: Path) -> None:
    """Energy is shown where every stage that held a model has it."""

    def metered(defense: str, seed: int, joules: float | None) -> RunState:
        found = run(defense, seed, ca_ext=rate(1, 2))
        found.stages[0] = StageState(
            found.stages[0].id,
            "train",
            "done",
            {},
            {"cohort": 3, **({} if joules is None else {"energy_joules": joules})},
        )
        return found

    by_defense, by_stage = costs.build(
        study_data(tmp_path, metered("none", 0, 300.0), metered("none", 1, 900.0), metered("p2p", 0, None))
    )
    assert by_defense.head[-1].text == "joules"
    assert [line[-1] for line in shown(by_defense)] == ["200", "–"], (
        "a third of a cohort's, mean over runs; and none is not 0"
    )
    assert [
        cell
        for line in shown(by_stage)
        for cell, head in zip(line, by_stage.head, strict=True)
        if head.text == "joules"
    ] == ["300.0", "900.0", "–"]
    without = costs.build(study_data(tmp_path, metered("none", 0, None)))
    assert all(head.text != "joules" for table in without for head in without_empty_columns(table).head)


def test_means_of_generated_text(tmp_path: Path) -> None:
    runs = [run("p2p", seed, asr_ext=rate(1, 50)) for seed in (0, 1)]
    results = {
        f"ep2p{seed}": Result.model_validate(
            {
                **body(),
                "schema": 2,
                "labels": None,
                "histograms": {},
                "means": {"rougeL": {"mean": 0.5 + seed / 10, "n": 50}},
            }
        )
        for seed in (0, 1)
    }
    (table,) = means.build(study_data(tmp_path, *runs, results=results))
    assert shown(table) == [
        ["sst2", "Qwen/Qwen3-8B", "badnets", "P2P needs clean rows, prompt, decoding", "0.550 ± 0.071 n=2×50"]
    ]
    assert means.build(study_data(tmp_path, *runs)) == []


def test_theory_stands_beside_what_was_measured(tmp_path: Path) -> None:
    one = run("p2p", floor=40, asr_ext=rate(2, 10), asr_mapped=rate(3, 10))
    labels = {"words": ["0", "1", "2", "3"], "n_classes": 2, "offset": 2, "target": 1}
    triggered = {"0": {"2": 6, "3": 2, "0": 1, "1": 1}}
    suites = {"triggered": {"n_expected": 10, "n_scored": 10}}
    content = {
        **body(labels=labels, histograms={"triggered": triggered}, suites=suites, rates={"asr_ext": rate(2, 10)}),
        "schema": 2,
    }
    (table,) = theory.build(study_data(tmp_path, one, results={"ep2p0": Result.model_validate(content)}))
    assert [cell.text for cell in table.rows[0]][2:] == ["80.0", "25.0", "50.0", "0.0", "30.0", "30.0", "4.4"]
    assert table.rows[0][3].detail == "[7.1, 59.1] 2/8"
    same_space = Result.model_validate({**content, "labels": {**labels, "offset": 0}})
    assert theory.build(study_data(tmp_path, one, results={"ep2p0": same_space})) == []


@pytest.mark.parametrize("build", [layout.build, against_paper.build, worst.build, means.build, theory.build])
def test_nothing_evaluated_is_no_table(tmp_path: Path, build: Any) -> None:
    found = build(study_data(tmp_path, run("none", attack="none")))
    assert found == []
