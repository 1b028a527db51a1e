"""Decisions of pictures before they draw: colours, labels, lanes; and that each draws what is there."""

import itertools
import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2p_dist.report import examples
from p2p_dist.report.plots import accuracy, confidence, gantt, labels, loss, rates, scaling, short_labels, style, sweep
from p2p_dist.report.study_data import StudyData
from p2p_dist.results.attempts import Attempt
from p2p_dist.results.collect import StageState, read_study
from p2p_dist.results.rundir import RunDir
from tests.report.figures import clipped, overlaps, texts
from tests.synthetic import STUDY, collapse, make_study

SWEEP = STUDY.replace("model: [random:qwen3-0.6b, random:qwen3-1.7b, random:qwen3-4b]", "model: tiny").replace(
    "  - {name: addsent, rate: 0.05}", "  - {name: badnets, rate: 0.1}\n  - {name: badnets, rate: 0.2}"
)


@pytest.fixture(scope="module")
def study_data(tmp_path_factory: pytest.TempPathFactory, data_root: Path) -> StudyData:
    folder = make_study(tmp_path_factory.mktemp("sweep"), data_root, SWEEP)
    return StudyData(folder, read_study(folder, alive=False), {})


def test_a_defense_has_one_colour_and_known_ones_differ() -> None:
    assert style.colour("p2p") == style.colour("p2p(ratio=0.3)")
    known = ["none", "p2p", "onion", "back_translation", "scpd", "bki", "moddef"]
    assert len({style.colour(name) for name in known}) == len({style.marker(name) for name in known}) == len(known)
    assert style.colour("of_tomorrow") == style.colour("of_tomorrow")


def test_arms_of_one_defense_are_told_apart() -> None:
    arms = ["none", "p2p", "p2p(ratio=0.4)", "p2p(ratio=0.4, benign_source=screened)", "onion"]
    tones = style.tones([*arms, *arms])
    assert list(tones) == arms
    assert len(set(tones.values())) == len({tone.colour for tone in tones.values()}) == len(arms)
    assert tones["p2p"].colour == style.colour("p2p"), "a study without arms looks as before"


@pytest.mark.parametrize(
    ("label", "brief"),
    [
        ("none", "no defense"),
        ("p2p", "P2P"),
        ("p2p(ratio=0.4, benign_source=screened, screening.rounds=2)", "P2P (screened, ratio 0.4, rounds 2)"),
        ("moddef(plain=False)", "moddef (plain False)"),
        ("mtba(words=['mn', 'cf'], targets=[1, 0])", "mtba (words ['mn', 'cf'], targets [1, 0])"),
        (
            "badnets(rate=0.05, knows.benign_trigger=The query currently entered is: )",
            "badnets (rate 0.05, benign_trigger The query currently entered is:)",
        ),
    ],
)
def test_a_name_in_a_picture_says_what_cannot_be_guessed(label: str, brief: str) -> None:
    assert short_labels.brief(label) == brief


def test_two_names_that_would_read_the_same_are_written_out() -> None:
    assert short_labels.briefs(["p2p(a.x=1)", "p2p(b.x=1)", "p2p(x=2)"]) == {
        "p2p(a.x=1)": "P2P(a.x=1)",
        "p2p(b.x=1)": "P2P(b.x=1)",
        "p2p(x=2)": "P2P (x 2)",
    }


def test_pictures_of_arms_with_long_names_have_room(tmp_path: Path, data_root: Path) -> None:
    """matplotlib warns, which is an error here, when names leave no room for a picture."""
    many = (
        "{name: p2p, benign_source: random_from_D, ratio: 0.4, benign_trigger: 'What somebody wrote about a film "
        "that they saw: '}"
    )
    folder = make_study(tmp_path, data_root, SWEEP.replace("[none, p2p]", f"[none, p2p, {many}]"))
    crowded = StudyData(folder, read_study(folder, alive=False), {})
    for draw in (rates.draw, sweep.draw, accuracy.draw, labels.draw, confidence.draw, loss.draw):
        for plot in draw(crowded):
            assert plot.svg()


@pytest.mark.parametrize(
    ("parameters", "name"),
    [
        (134_515_008, "135M"),
        (494_000_000, "0.5B"),
        (595_984_384, "0.6B"),
        (1_720_451_072, "1.7B"),
        (4_022_272_000, "4B"),
        (8_030_000_000, "8B"),
        (9_960_000_000, "10B"),
        (14_700_000_000, "15B"),
        (70_600, "71K"),
    ],
)
def test_short_size_is_written_as_the_field_does(parameters: int, name: str) -> None:
    assert scaling.short_size(parameters) == name


@given(st.lists(st.integers(10**6, 10**11), min_size=1, max_size=8, unique=True))
def test_ticks_of_sizes_keep_their_distance(sizes: list[int]) -> None:
    ticks = scaling.apart(sizes)
    assert max(ticks) == max(sizes)
    span = 1.7 * max(sizes) / min(sizes)
    assert all(math.log(b / a) >= scaling.TICK_ROOM * math.log(span) - 1e-9 for a, b in itertools.pairwise(ticks))


def test_ticks_of_a_sweep_keep_their_distance() -> None:
    assert sweep.apart([0.01, 0.02, 0.05, 0.1, 0.2]) == [0.02, 0.05, 0.1, 0.2]
    assert sweep.apart([5.0]) == [5.0]


def drawn(study_data: StudyData) -> list[style.Plot]:
    kinds = (rates, scaling, sweep, accuracy, confidence, labels, loss, gantt)
    return [plot for kind in kinds for plot in kind.draw(study_data)]


def test_texts_of_pictures_do_not_overlap_or_leave_the_canvas(study_data: StudyData) -> None:
    plots = drawn(study_data)
    assert {plot.name.partition("_")[0] for plot in plots} >= {"rates", "sweep", "accuracy", "labels", "loss"}
    for plot in plots:
        shown = texts(plot)
        assert len(shown) > 5
        assert (overlaps(shown), clipped(plot, shown)) == ([], []), plot.name


def test_texts_of_pictures_of_a_large_grid_do_not_overlap(tmp_path: Path, data_root: Path) -> None:
    """Four models, two attacks, and defenses whose options make long names."""
    arms = "{name: p2p, benign_source: random_from_D, ratio: 0.4}, {name: p2p, ratio: 0.3}"
    grid = STUDY.replace("random:qwen3-4b]", "random:qwen3-4b, random:qwen3-8b]").replace("[0, 1, 2]", "0")
    folder = make_study(tmp_path, data_root, grid.replace("[none, p2p]", f"[none, p2p, {arms}]"))
    crowded = StudyData(folder, read_study(folder, alive=False), {})
    plots = drawn(crowded)
    assert sum(plot.name.startswith("scaling") for plot in plots) == 2
    for plot in plots:
        shown = texts(plot)
        assert (overlaps(shown), clipped(plot, shown)) == ([], []), plot.name


def test_texts_that_overlap_or_leave_the_canvas_are_seen() -> None:
    """A negative control of the two tests above."""
    figure, axis = style.figure(2.0)
    axis.text(0.5, 0.5, "one text")
    axis.text(0.52, 0.52, "another")
    axis.annotate(
        "far out", (1.0, 0.2), xytext=(0, 0), textcoords="offset points", annotation_clip=False
    ).set_in_layout(False)
    plot = style.Plot("x", "", "", figure)
    shown = texts(plot)
    assert overlaps(shown) == [("one text", "another")]
    assert clipped(plot, shown) == ["far out"]


def test_lanes_never_overlap_and_are_as_few_as_can_be() -> None:
    spans = [(0.0, 4.0), (1.0, 2.0), (2.0, 3.0), (3.5, 5.0), (4.0, 6.0)]
    assert gantt.lanes(spans) == [0, 1, 1, 1, 0]
    assert gantt.lanes([]) == []


def attempt(code: int | None, *stages: str) -> Attempt:
    return Attempt(1, stages, 100.0, 200.0, code, {})


def stage(kind: str, started: float | None, seconds: float) -> StageState:
    return StageState(kind, kind, "done", {}, {"seconds": seconds, **({} if started is None else {"started": started})})


def test_an_attempt_is_cut_into_its_stages() -> None:
    train, both = stage("train", 110.0, 60.0), ("train", "eval")
    whole = gantt.parts(attempt(0, *both), [train, train, stage("eval", 175.0, 20.0)])
    assert whole == [
        ("start and load", 100.0, 110.0),
        ("train", 110.0, 170.0),
        ("start and load", 170.0, 175.0),
        ("eval", 175.0, 195.0),
        ("start and load", 195.0, 200.0),
    ]
    resumed = gantt.parts(attempt(0, *both), [stage("train", 110.0, 500.0), stage("eval", 175.0, 25.0)])
    assert resumed[1:] == [("train", 110.0, 175.0), ("eval", 175.0, 200.0)], (
        "its seconds have those before the resume in them"
    )
    killed = gantt.parts(attempt(-9, *both), [train, stage("eval", 400.0, 20.0)])
    assert killed == [("ended early", 100.0, 110.0), ("train", 110.0, 170.0), ("ended early", 170.0, 200.0)]
    assert gantt.parts(attempt(-9, "train"), [stage("train", 110.0, 300.0)]) == [("ended early", 100.0, 200.0)], (
        "another attempt's work"
    )
    assert gantt.parts(attempt(0, *both), [stage("train", None, 60.0)]) == [("train", 100.0, 200.0)], (
        "no clock: the first stage's colour"
    )
    assert gantt.parts(attempt(-9), []) == [("ended early", 100.0, 200.0)]


def test_equal_accuracies_are_not_zoomed_into() -> None:
    low, high = accuracy.span([90.0, 90.0])
    assert low < 85.0 < 95.0 < high
    low, high = accuracy.span([50.0, 95.0])
    assert low < 50.0 < 95.0 < high < 110.0


def test_tasks_without_accuracy_have_a_picture_of_attack_success(study_data: StudyData, tmp_path: Path) -> None:
    """Summaries: text that no judge calls right or wrong."""
    folder = RunDir(shutil.copytree(study_data.folder.path, tmp_path / "study"))
    collected = read_study(folder, alive=False)
    runs = [
        replace(run, rates={name: rate for name, rate in run.rates.items() if not name.startswith("ca_")})
        for run in collected.runs
    ]
    (plot,) = rates.draw(StudyData(folder, replace(collected, runs=runs), {}))
    (before,) = rates.draw(study_data)
    assert len(before.figure.axes) == 2
    assert len(plot.figure.axes) == 1
    assert "accuracy" in before.message
    assert "accuracy" not in plot.message
    assert "CA" not in plot.description


def test_collapsed_models_are_named_in_every_picture_of_rates(study_data: StudyData, tmp_path: Path) -> None:
    folder = RunDir(shutil.copytree(study_data.folder.path, tmp_path / "study"))
    fallen = [
        run
        for run in study_data.collected.runs
        if (run.cell["attack"], run.cell["defense"]) == ("badnets(rate=0.2)", "p2p")
    ]
    assert len(fallen) == 3
    for run in fallen[:2]:
        collapse(folder.at("eval", run.ids["eval"] or "").result)
    damaged = StudyData(folder, read_study(folder, alive=False), {})
    assert not damaged.collected.problems
    assert [table.title.endswith("(P2P has collapsed)") for table in examples.build(damaged)] == [False, False, True]
    for draw in (rates.draw, sweep.draw, accuracy.draw, labels.draw, confidence.draw):
        (before,), (after,) = draw(study_data), draw(damaged)
        assert "collapsed" not in before.description + before.note
        assert "collapsed" in after.description or draw is confidence.draw
        assert after.svg() != before.svg()


def test_a_sweep_is_found_in_the_specs(study_data: StudyData) -> None:
    (plot,) = sweep.draw(study_data)
    assert plot.name == "sweep_badnets_rate_rotten_tomatoes_tiny"
    lines = plot.description.split("; ")
    assert [line.partition(":")[0] for line in lines] == [
        "attack success, % no defense",
        "attack success, % P2P",
        "every label allowed P2P",
        "clean accuracy, % no defense",
        "clean accuracy, % P2P",
    ]
    assert lines[0].startswith("attack success, % no defense: 0.05 9")
    assert all(number in lines[0] for number in (" 0.1 ", " 0.2 "))


def test_one_size_is_no_scaling_study(study_data: StudyData) -> None:
    assert scaling.draw(study_data) == []


def test_confidence_agrees_with_the_rates(study_data: StudyData) -> None:
    """With two classes the target wins exactly when its probability is above one half."""
    for run in study_data.collected.runs:
        if run.cell["attack"] != "none":
            values = confidence.confidences(study_data, run)
            assert sum(value > 0.5 for value in values) == run.rates["asr_ext"]["k"]


def test_confidence_shows_few_defenses_and_says_so(study_data: StudyData, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lines and names of forty defenses left no room for the panels."""
    (all_shown,) = confidence.draw(study_data)
    monkeypatch.setattr(confidence, "MOST_DEFENSES", 0)
    (plot,) = confidence.draw(study_data)
    assert all_shown.note == ""
    assert plot.note == "The first 0 of 1 defenses."
    assert len(plot.description) < len(all_shown.description)


def test_parameters_come_from_the_study_folder(study_data: StudyData) -> None:
    assert (
        study_data.parameters("tiny")
        == json.loads(study_data.folder.resolved.read_text())["models"]["tiny"]["parameters"]
    )
    assert study_data.parameters("unknown") is None
