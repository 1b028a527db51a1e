"""Collapsed models and hidden backdoors are marked in every table, and never the best."""

import io
from pathlib import Path

from rich.console import Console

from p2p_dist.report import headline
from p2p_dist.report import run_columns as one_table
from p2p_dist.report.groups import group
from p2p_dist.report.tables import layout, problems, worst
from p2p_dist.report.tables import runs as runs_table
from p2p_dist.report.terminal import rich_table
from tests.report.invented_runs import collapsing, rate, run, shown, study_data


def test_a_collapsed_run_is_named(tmp_path: Path) -> None:
    runs = [
        run("bki", ca_ext=rate(50, 100), majority_answer=rate(100, 100), floor=1),
        run("none", ca_ext=rate(90, 100), majority_answer=rate(52, 100), floor=1),
    ]
    (table,) = problems.build(study_data(tmp_path, *runs))
    assert [(line[3], line[-1][:24]) for line in shown(table)] == [("bki", "collapsed: 100 of 100 cl")]


def test_a_collapsed_model_is_marked_and_never_the_best(tmp_path: Path) -> None:
    runs = [run("none", ca_ext=rate(90, 100), asr_ext=rate(50, 50), majority_answer=rate(52, 100))]
    runs += [
        run(
            "bki", seed, ca_ext=rate(50 + seed, 100), asr_ext=rate(seed, 50), majority_answer=rate(100 - 40 * seed, 100)
        )
        for seed in (0, 1)
    ]
    (table,) = layout.build(study_data(tmp_path, *runs))
    assert shown(table)[0][3:] == [
        "100.0 [92.9, 100.0] n=50",
        "50.5 ± 0.7 n=2×100, 1/2 collapsed",
        "1.0 ± 1.4 n=2×50, 1/2 collapsed",
    ]
    assert [cell.best for cell in table.rows[0]][2:] == [True, True, False, False]
    assert headline.sentences(group(runs)) == [
        "No pair of an attacked and a defended model has rates that say anything.",
        (
            "1 of 3 models collapsed to one answer: their attack rates say nothing about a defense, and 1 of 1 pairs "
            "are "
            "left out here."
        ),
    ]


def test_hidden_backdoor_is_named_and_never_the_best(tmp_path: Path) -> None:
    """PDB with two classes: the target is said to every triggered row, and mapped back to what is right for them. P2P's
    deployed system has labels of its own, and only constrained decoding keeps it from saying the target's."""
    runs = [run("none", ca_ext=rate(90, 100), asr_ext=rate(50, 50), floor=1)]
    runs += [
        run(
            "p2p",
            ca_ext=rate(91, 100),
            asr_ext=rate(4, 50),
            asr_mapped=rate(41, 50),
            asr_raw_target=rate(40, 50),
            ext_rate=rate(10, 50),
            floor=1,
        )
    ]
    runs += [run("pdb", ca_ext=rate(92, 100), asr_ext=rate(0, 50), asr_raw_target=rate(49, 50), floor=1)]
    (table,) = layout.build(study_data(tmp_path, *runs))
    assert [head.text for head in table.head][2:] == [
        layout.CA,
        layout.ASR,
        *[layout.CA, layout.ASR, layout.MAPPED],
        *[layout.CA, layout.ASR],
    ]
    assert [cell.best for cell in table.rows[0]][2:] == [True, True, False, False, False, False, False]
    sentences = headline.sentences(group(runs))
    assert any(
        line.startswith("Under pdb the backdoor of badnets still fires") and "no defense" in line for line in sentences
    )
    assert any(
        line.startswith("Under P2P the backdoor of badnets still fires") and "constrained" in line for line in sentences
    )
    assert any("every label allowed and mapped back, attack success is 82.0 % (41/50)" in line for line in sentences)
    (missing,) = problems.build(study_data(tmp_path, *runs))
    assert [(line[3], line[-1][:35]) for line in shown(missing)] == [
        ("p2p", "the backdoor fires: on 40 of 50 tri"),
        ("pdb", "the backdoor fires: on 49 of 50 tri"),
    ]
    assert group([run("p2p", asr_ext=rate(50, 50), asr_raw_target=rate(50, 50))])[0].hidden == [], (
        "nothing is hidden where the attack succeeds"
    )


def test_the_headline_says_nothing_of_collapsed_models(tmp_path: Path) -> None:
    runs = [
        run("none", ca_ext=rate(90, 100), asr_ext=rate(50, 50)),
        collapsing("bki"),
        run("p2p", ca_ext=rate(91, 100), asr_ext=rate(5, 50)),
    ]
    first, *others = headline.sentences(group(runs))
    assert first.startswith(
        "Attack success of badnets is 100.0 % (50/50) without a defense and 10.0 % (5/50) with P2P."
    )
    assert not [sentence for sentence in others if sentence.startswith("Over all")], (
        "one pair is left, and has no range"
    )
    assert (
        "1 of 3 models collapsed to one answer: their attack rates say nothing about a defense, and 1 of 2 pairs are "
        "left out here." in others
    )


def test_a_worst_case_over_collapsed_models_is_marked(tmp_path: Path) -> None:
    runs = [
        collapsing("bki"),
        run("bki", attack="addsent", asr_ext=rate(10, 50)),
        collapsing("crow", floor=91),
        collapsing("crow", attack="addsent"),
    ]
    (table,) = worst.build(study_data(tmp_path, *runs))
    assert [line[2:6] for line in shown(table)] == [
        ["bki", "20.0 [11.2, 33.0] n=50", "addsent", "2 1 of them collapsed"],
        ["crow", "0.0 [0.0, 7.1] n=50, collapsed", "badnets", "2 2 of them collapsed"],
    ]
    assert shown(table)[1][6].endswith(", collapsed")


def test_collapsed_run_has_every_rate_marked(tmp_path: Path) -> None:
    """Every rate of a collapsed run is marked but not what other systems say."""
    one = collapsing("bki", floor=91, asr_nobt=rate(49, 50), invalid_rate=rate(0, 100))
    (table,) = runs_table.build(study_data(tmp_path, one))
    flags = {head.text: cell.flag for head, cell in zip(table.head, table.rows[0], strict=True) if cell.text}
    marked = {"CA", "ASR"}
    assert flags == {
        head: "collapsed" if head in marked else ""
        for head in ("attack", "defense", "CA", "ASR", "ASR without benign trigger", "Clean-model baseline", "Invalid")
    }
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(rich_table(one_table.axes([one]), one_table.rows([one])))
    assert "collapsed: nearly every clean row" in console.export_text()
