"""What pictures decide before they draw: colours, labels, lanes; and that each draws what is there."""

import itertools
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2p_dist.report import looks
from p2p_dist.report.evidence import Evidence
from p2p_dist.report.plots import confidence, gantt, scaling, sweep
from p2p_dist.results.collect import read_study
from tests.synthetic import STUDY, make_study

SWEEP = STUDY.replace("model: [random:qwen3-0.6b, random:qwen3-1.7b, random:qwen3-4b]", "model: tiny").replace(
    "  - {name: addsent, rate: 0.05}", "  - {name: badnets, rate: 0.1}\n  - {name: badnets, rate: 0.2}"
)


@pytest.fixture(scope="module")
def evidence(tmp_path_factory: pytest.TempPathFactory, data_root: Path) -> Evidence:
    folder = make_study(tmp_path_factory.mktemp("sweep"), data_root, SWEEP)
    return Evidence(folder, read_study(folder, alive=False), {})


def test_a_defense_has_one_colour_and_known_ones_differ() -> None:
    assert looks.colour("p2p") == looks.colour("p2p(ratio=0.3)")
    known = ["none", "p2p", "onion", "back_translation", "scpd", "bki", "moddef"]
    assert len({looks.colour(name) for name in known}) == len({looks.marker(name) for name in known}) == len(known)
    assert looks.colour("of_tomorrow") == looks.colour("of_tomorrow")


@given(st.lists(st.floats(0, 100), min_size=1, max_size=6))
def test_labels_keep_their_distance_and_order(places: list[float]) -> None:
    moved = looks.spread_labels(places, 5.0)
    inside = sorted(moved)
    assert all(after - before > 4.9 for before, after in itertools.pairwise(inside))
    assert sorted(range(len(places)), key=lambda at: places[at]) == sorted(range(len(places)), key=lambda at: moved[at])


def test_lanes_never_overlap_and_are_as_few_as_can_be() -> None:
    spans = [(0.0, 4.0), (1.0, 2.0), (2.0, 3.0), (3.5, 5.0), (4.0, 6.0)]
    assert gantt.lanes(spans) == [0, 1, 1, 1, 0]
    assert gantt.lanes([]) == []


def test_a_sweep_is_found_in_the_specs(evidence: Evidence) -> None:
    (plot,) = sweep.draw(evidence)
    assert plot.name == "sweep_badnets_rate_rotten_tomatoes_tiny"
    lines = plot.description.split("; ")
    assert [line.partition(":")[0] for line in lines] == [
        f"{rate}, % {defense}" for rate in ("attack success", "clean accuracy") for defense in ("no defense", "P2P")
    ]
    assert lines[0].startswith("attack success, % no defense: 0.05 9")
    assert all(number in lines[0] for number in (" 0.1 ", " 0.2 "))


def test_one_size_is_no_scaling_study(evidence: Evidence) -> None:
    assert scaling.draw(evidence) == []


def test_confidence_agrees_with_the_rates(evidence: Evidence) -> None:
    """With two classes the target wins exactly when its probability is above one half."""
    for run in evidence.found.runs:
        if run.cell["attack"] != "none":
            values = confidence.confidences(evidence, run)
            assert sum(value > 0.5 for value in values) == run.rates["asr_ext"]["k"]


def test_parameters_come_from_the_study_folder(evidence: Evidence) -> None:
    assert evidence.parameters("tiny") == json.loads(evidence.folder.resolved.read_text())["models"]["tiny"]["parameters"]
    assert evidence.parameters("unknown") is None
