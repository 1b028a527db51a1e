"""Results are whole, sealed and where they belong, or they are named and count for nothing."""

import json
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest

from p2p_dist.config.identity import stage_id
from p2p_dist.errors import Problem
from p2p_dist.results import atomic, resultfile
from p2p_dist.results.resultfile import Result
from p2p_dist.results.rundir import StageDir

SPEC, READS = {"scoring": "label_logits"}, {"adapter": "a" * 12, "rows": "b" * 12}
ID = stage_id("eval", SPEC, READS)


def body(**changes: Any) -> dict[str, Any]:
    return {
        "stage": {"id": ID, "reads": READS, "spec": SPEC},
        "labels": {"words": ["0", "1"], "n_classes": 2, "offset": 0, "target": 1},
        "rates": {"ca_ext": {"k": 3, "n": 4, "rate": 0.75}},
        "histograms": {"clean": {"0": {"0": 2}, "1": {"1": 1, "invalid": 1}}},
        "suites": {"clean": {"n_expected": 4, "n_scored": 4}},
        "counts": {"train": {"clean": {"0": 5}}},
        "inputs": {"data_manifest_sha256": "c" * 64, "adapter_sha256": "d" * 64},
        "dtype": "float32",
        "versions": {"torch": "2"},
        **changes,
    }


@pytest.fixture
def stage(tmp_path: Path) -> StageDir:
    found = StageDir(tmp_path / ID, "eval")
    atomic.publish(found.result, resultfile.seal(body()))
    return found


def code(stage: StageDir) -> str:
    found = resultfile.read(stage)
    assert isinstance(found, Problem)
    assert str(stage.result) in str(found)
    assert found.fix
    return found.code


def test_round_trip(stage: StageDir) -> None:
    found = resultfile.read(stage)
    assert isinstance(found, Result)
    assert found.rates["ca_ext"].k == 3
    assert resultfile.read(StageDir(stage.path.parent / "nothing", "eval")) is None
    assert isinstance(resultfile.parse(resultfile.seal(body(later="key of a newer version")), ID, "x"), Result)


def test_a_thousand_flipped_bits_are_refused(stage: StageDir) -> None:
    whole, random = stage.result.read_bytes(), Random(0)
    for _ in range(1000):
        flipped = bytearray(whole)
        flipped[random.randrange(len(whole))] ^= 1 << random.randrange(8)
        assert isinstance(resultfile.parse(bytes(flipped), ID, "x"), Problem)


def test_every_cut_is_refused(stage: StageDir) -> None:
    whole = stage.result.read_bytes()
    assert all(isinstance(resultfile.parse(whole[:at], ID, "x"), Problem) for at in range(len(whole)))


EDITS: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "a number edited by hand": (lambda result: result["rates"]["ca_ext"].update(k=4, rate=1.0), "E502"),
    "another version": (lambda result: result.update(schema=1), "E503"),
    "not a result": (lambda result: result.clear(), "E502"),
}


@pytest.mark.parametrize("what", EDITS)
def test_edits_are_named(stage: StageDir, what: str) -> None:
    edit, expected = EDITS[what]
    result = json.loads(stage.result.read_bytes())
    edit(result)
    stage.result.write_bytes(atomic.to_json(result))
    assert code(stage) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        "null",
        '{"schema": 2}',
        '{"schema": "2"}',
        '{"rate": NaN}',
        "\x00" * 100,
        '{"schema": 2, "sha256": "x"}',
    ],
)
def test_anything_else_is_named(stage: StageDir, text: str) -> None:
    stage.result.write_text(text)
    assert code(stage) == "E502"


@pytest.mark.parametrize(
    "changes",
    [
        {"rates": {"ca_ext": {"k": 5, "n": 4, "rate": 1.25}}},
        {"rates": {"ca_ext": {"k": 3, "n": 4, "rate": 0.7}}},
        {"rates": {"ca_ext": {"k": 0, "n": 0, "rate": 0.0}}},
        {"suites": {"clean": {"n_expected": 5, "n_scored": 4}}},
        {"histograms": {"clean": {"0": {"0": 3}}}},
        {"stage": {"id": "0" * 12, "reads": READS, "spec": SPEC}},
        {"dtype": float("nan")},
    ],
)
def test_a_body_that_does_not_add_up_is_never_written(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  # pydantic's and json's own words
        resultfile.seal(body(**changes))


def test_the_result_of_another_evaluation(tmp_path: Path) -> None:
    stage = StageDir(tmp_path / ("0" * 12), "eval")
    atomic.publish(stage.result, resultfile.seal(body()))
    assert code(stage) == "E504"


def test_two_results_for_one_id_are_shown_and_not_chosen(stage: StageDir) -> None:
    stage.result.with_name("result.json.conflict-12345678").write_bytes(resultfile.seal(body(dtype="bfloat16")))
    assert code(stage) == "E507"
    assert resultfile.set_aside(stage) is not None
    assert stage.result.exists()


def test_a_damaged_result_is_set_aside_and_kept(stage: StageDir) -> None:
    stage.result.write_text("half")
    problem = resultfile.set_aside(stage)
    assert problem is not None
    assert "set aside as result.json.damaged-" in problem.what
    assert resultfile.read(stage) is None
    assert [Path(path).read_text() for path in resultfile.kept_aside(stage)] == ["half"]
