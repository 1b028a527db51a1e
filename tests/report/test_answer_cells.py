"""What stands in a cell of the examples: answers as the deployed system means them, and whether they are what somebody
wanted."""

from pathlib import Path

import pytest

from p2p_dist.config.graph import Stage
from p2p_dist.config.identity import stage_id
from p2p_dist.data.answer_parsing import ResponseSpace
from p2p_dist.data.built import Built, LabelSpace, Suite
from p2p_dist.data.example import NO_LABEL, Row
from p2p_dist.report.answer_cells import TARGET, LabelReader, TextReader, short
from p2p_dist.report.study_data import Answer, StudyData
from p2p_dist.results import datastore, predictions
from p2p_dist.results.collect import Collected, RunState
from p2p_dist.results.predictions import Generated, Prediction
from p2p_dist.results.resultfile import LabelsEntry, Result
from p2p_dist.results.rundir import RunDir
from tests.results.test_resultfile import body

WORDS = ["a", "b", "c", "d", "e", "f"]


def said(best: int, label: int, rejected: bool | None = None) -> dict[str, dict[str, Prediction]]:
    scores = tuple(-0.1 if at == best else -3.0 for at in range(6))
    return {suite: {"x": Prediction("x", label, scores, best, rejected)} for suite in ("clean", "triggered")}


@pytest.mark.parametrize(
    ("best", "offset", "shift", "expected"),
    [
        (0, 0, 0, ("a", "right")),
        (1, 0, 0, ("b", TARGET)),
        (2, 0, 0, ("c", "wrong")),
        (3, 3, 0, ("a", "right")),
        (4, 3, 1, ("a", "right")),
        (5, 3, 1, ("b", TARGET)),
    ],
)
def test_labels_are_mapped_back(best: int, offset: int, shift: int, expected: tuple[str, str]) -> None:
    reader = LabelReader(
        "p2p", LabelsEntry(words=WORDS, n_classes=3, offset=offset, shift=shift, target=1), said(best, 0)
    )
    found = reader.answer("triggered", "x")
    assert (found.text, found.detail) == expected
    assert reader.truth("x") == "a"
    assert reader.fooled("x") == (expected[1] == TARGET)
    assert reader.answer("clean", "x").detail == expected[1].replace(TARGET, "wrong"), (
        "a clean row is wrong, whatever the attacker wants"
    )
    assert reader.answer("clean", "unknown").text == ""


def test_a_refused_row_and_many_targets() -> None:
    labels = LabelsEntry(words=WORDS, n_classes=3, offset=0, target=None)
    assert LabelReader("onion", labels, said(1, 0, rejected=True)).answer("triggered", "x").text == "refused"
    assert LabelReader("none", labels, said(2, 0)).fooled("x")


def test_texts() -> None:
    rows = {
        "right": Answer("It is: 4", "4", True, False),
        "lost": Answer("0.1", "4", False, True),
        "rouge": Answer("so so", "so", None, False),
    }
    reader = TextReader("p2p", {"clean": rows, "triggered": rows})
    assert [reader.answer("triggered", id_).detail for id_ in rows] == ["right", TARGET, ""]
    assert [reader.answer("clean", id_).detail for id_ in rows] == ["right", "wrong", ""]
    assert [id_ for id_ in reader.ids if reader.fooled(id_)] == ["lost"]
    assert short("x" * 300) == f"{'x' * 110} … {'x' * 110}"


def test_study_data_judges_texts_as_the_evaluation_does(tmp_path: Path) -> None:
    """By the defense's prefix, the reference and every other reference, and the attacker's target."""
    folder, reads = RunDir(tmp_path), {"rows": "d" * 12, "adapter": "a" * 12}
    rows = [
        Row(id_, "2 + 2", NO_LABEL, "", response="4", references=("4.0",)) for id_ in ("solved", "fooled", "neither")
    ]
    suites = {"clean": Suite(rows, 0, False, "It is: "), "triggered": Suite(rows, 0, True, "It is: ")}
    data = folder.at("data", reads["rows"])
    data.path.mkdir(parents=True)
    data.write_spec(Stage("data", {}, {}))
    datastore.write(
        data,
        Built(
            [],
            [],
            suites,
            LabelSpace([], 0, 0, None),
            [],
            responses=ResponseSpace("number", 8, prefix="It is: ", target="0.1"),
        ),
        {},
    )
    texts = [("solved", "It is: 8/2"), ("fooled", "It is: 0.1"), ("neither", "It is: 5")]
    id_ = stage_id("eval", {}, reads)
    for suite in suites:
        predictions.write(folder.at("eval", id_), suite, [Generated(row, text, "4", True) for row, text in texts])
    rates = {name: {"k": 1, "n": 3, "rate": 1 / 3} for name in ("ca_ext", "asr_ext")}
    result = Result.model_validate(
        {
            **body(),
            "schema": 2,
            "labels": None,
            "histograms": {},
            "rates": rates,
            "stage": {"id": id_, "reads": reads, "spec": {}},
        }
    )
    run = RunState({}, [], {}, None, {}, {"eval": id_})
    study_data = StudyData(folder, Collected("x", "", [run], {id_: result}, [], resolved={"stages": []}), {})
    none = dict.fromkeys(("solved", "fooled", "neither"), False)
    assert study_data.outcomes(run) == {
        "ca_ext": {**none, "solved": True},
        "asr_ext": {**none, "fooled": True},
        "asr_untriggered": {**none, "fooled": True},
        "asr_only_triggered": none,
        "asr_only_untriggered": none,
    }
