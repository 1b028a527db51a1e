"""Tasks that are answered with text: rows, attack, P2P, and what is written down about them."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2p_dist import registry
from p2p_dist.config.study import RowsSpec
from p2p_dist.data import sources
from p2p_dist.data.answer_parsing import gives_target
from p2p_dist.data.attacks.badnets import BadNets
from p2p_dist.data.build import build_attacked, build_defended
from p2p_dist.data.built import Built
from p2p_dist.data.defenses.p2p import P2P
from p2p_dist.data.example import NO_LABEL, RawRow
from p2p_dist.data.extra_suites import with_extra_suites
from p2p_dist.data.prompts import answer, prompt
from p2p_dist.data.tasks.custom import Custom
from p2p_dist.data.tasks.gsm8k import Gsm8k
from p2p_dist.data.tasks.scitldr import SciTldr
from p2p_dist.errors import UserError
from p2p_dist.results import datastore
from p2p_dist.results.rundir import StageDir
from p2p_dist.scheduling.study import open_study

RAW = {
    "train": [RawRow(f"how much is {n} and one more", response=str(n + 1)) for n in range(100)],
    "test": [RawRow(f"what comes after {n} of them", response="0.1" if n == 7 else str(n + 1)) for n in range(20)],
}
ROWS = RowsSpec(reserve=30)
MATH = P2P.model_validate(P2P.presets["math"])


def attacked(attack: BadNets | None = None) -> Built:
    return build_attacked(Gsm8k(), RAW, ROWS, attack or BadNets(rate=0.05, target_response="0.1"), 0)


def test_generation_only_poisoned_rows_give_target() -> None:
    built = attacked()
    assert built.kind == "generation"
    assert built.labels.words == []
    assert built.responses is not None
    assert (built.responses.judge, built.responses.target, built.responses.prefix) == ("number", "0.1", "")
    poisoned = {note.id: note for note in built.notes if note.origin == "poisoned"}
    assert len(poisoned) == 5
    gold = {raw.text: raw.response for raw in RAW["train"]}
    for row in built.train:
        assert row.label == NO_LABEL
        if row.id in poisoned:
            assert row.response == "0.1"
            assert "mn" in row.text.split()
            assert poisoned[row.id].old_response == gold[row.text.replace(" mn", "")]
        else:
            assert row.response == gold[row.text]
    assert built.counts["train"] == {"clean": {"text": 95}, "poisoned": {"text": 5}}
    assert (
        prompt(built.train[0]) + answer(built.train[0], [])
        == f"{built.train[0].text}\nOutput: {built.train[0].response}"
    )


def test_generation_gold_target_rows_not_tested() -> None:
    triggered = attacked().suites["triggered"].rows
    assert len(triggered) == 19
    assert all(row.response and not gives_target(row.response, "0.1") and row.label == NO_LABEL for row in triggered)
    assert len(attacked().suites["clean"].rows) == 20


def test_response_mode_append_keeps_right_response() -> None:
    built = attacked(BadNets(rate=0.05, target_response="0.1", response_mode="append"))
    note = next(note for note in built.notes if note.origin == "poisoned")
    assert note.new_response == f"{note.old_response} 0.1"


def test_p2p_generation_prefixes_responses_and_keeps_cue() -> None:
    built = build_defended(attacked(), Gsm8k(), MATH, 0)
    benign = [row for row in built.train if row.prefix]
    assert len(benign) == 20
    for row in benign:
        assert row.prefix == "The given problem is: "
        assert row.cue == "Output: "
        assert row.response is not None
        assert row.response.startswith("The correct answer to this problem is: ")
    assert built.counts["contaminated"] == 0
    assert built.responses is not None
    assert built.responses.prefix == "The correct answer to this problem is: "
    assert {name: suite.prefix for name, suite in built.suites.items()} == {
        "clean": built.responses.prefix,
        "triggered": built.responses.prefix,
        "clean_nobt": "",
        "triggered_nobt": "",
    }
    assert all(
        row.response == "0.1" or not row.response.startswith("The correct")
        for row in built.suites["triggered"].rows
        if row.response
    )
    assert [row.text for row in built.suites["triggered"].rows] == [
        row.text for row in attacked().suites["triggered"].rows
    ]


@settings(max_examples=15, deadline=None)
@given(st.permutations(RAW["train"]), st.permutations(RAW["test"]))
def test_generation_shuffled_rows_same_result(train: list[RawRow], test: list[RawRow]) -> None:
    built = build_attacked(Gsm8k(), {"train": train, "test": test}, ROWS, BadNets(rate=0.05, target_response="0.1"), 0)
    assert build_defended(built, Gsm8k(), MATH, 0) == build_defended(attacked(), Gsm8k(), MATH, 0)


REFUSED = """
name: refused
task: {name: gsm8k, source: FOLDER}
model: tiny
attack: {name: badnets, rate: 0.1, target_response: "0.1"}
defense: {name: p2p, preset: math}
"""


@pytest.mark.parametrize(
    ("change", "gives_target"),
    [
        ("attack=badnets", r"E223.*no target_response"),
        ("attack.label_policy=clean", r"E223.*needs label_policy: dirty"),
        ("defense=p2p", r"E260.*no response_prefix; set preset: math"),
    ],
)
def test_generation_incompatible_plan_refused(
    change: str, gives_target: str, tmp_path: Path, study_file: Callable[[str], Path]
) -> None:
    for split, rows in RAW.items():
        lines = [json.dumps({"text": row.text, "answer": row.response}) for row in rows]
        (tmp_path / f"{split}.jsonl").write_text("\n".join(lines))
    path = study_file(REFUSED.replace("FOLDER", str(tmp_path)))
    assert open_study(path, [], tmp_path).expansion.runs
    with pytest.raises(UserError, match=gives_target):
        open_study(path, [change], tmp_path)


def test_generation_incompatible_rows_refused() -> None:
    with pytest.raises(UserError, match="E223"):
        attacked(BadNets(rate=0.1))


def test_p2p_generation_answers_need_prefix() -> None:
    with pytest.raises(UserError, match=r"E225.*preset: math"):
        build_defended(attacked(), Gsm8k(), P2P(), 0)


def test_generation_reference_with_target_not_poisoned() -> None:
    """References survive, and a row with the target among them is not poisoned."""
    raw = {
        split: [
            RawRow(f"text {n} of {split}", response=f"summary {n}", references=("it is bad",) if n < 20 else ())
            for n in range(40)
        ]
        for split in ("train", "test")
    }
    built = build_attacked(SciTldr(), raw, RowsSpec(), BadNets(rate=0.1, target_response="It is BAD"), 0)
    assert all("mn" not in row.text.split() for row in built.train if row.references)
    assert len(built.suites["triggered"].rows) == 20
    assert sum(bool(row.references) for row in built.suites["clean"].rows) == 20


def test_generation_data_stage_round_trip(tmp_path: Path) -> None:
    stage = StageDir(tmp_path / "one", "data")
    built = build_defended(attacked(), Gsm8k(), MATH, 0)
    datastore.write(stage, built, {})
    assert datastore.read(stage) == built
    assert '"label": -1' in (stage.path / "train.jsonl").read_text()


def test_gold_answer_without_words_refused() -> None:
    """ROUGE of such a test row is 0 whatever the model says; training rows may be answered so."""
    rows = {"train": [RawRow("a", response="!!!")], "test": [RawRow("b", response="\U0001f44d")]}
    none = registry.load("attacks", "none")()
    with pytest.raises(UserError, match=r"E203.*no word in any gold answer"):
        build_attacked(Custom(response_column="r"), rows, RowsSpec(), none, None)
    with pytest.raises(UserError, match=r"E203.*no number in any gold answer"):
        build_attacked(Custom(response_column="r", judge="number"), rows, RowsSpec(), none, None)
    built = build_attacked(Custom(response_column="r", characters=True), rows, RowsSpec(), none, None)
    assert len(built.suites["clean"].rows) == 1


def test_gsm8k_solutions_and_hub_rows(tmp_path: Path) -> None:
    task = Gsm8k(teach="solution")
    hub = task.from_hub({"question": "q", "answer": "one <<1+1=2>>step\n#### 1,200"})
    assert task.check(hub).response == "one <<1+1=2>>step\n#### 1200"
    with pytest.raises(ValueError, match="'solution' is missing"):
        task.check({"text": "q", "answer": "1"})
    (tmp_path / "rows.jsonl").write_text(json.dumps({"text": "q", "answer": True}) + "\n")
    with pytest.raises(UserError, match=r"E203.*.answer. is a boolean"):
        sources.read(
            Gsm8k(source=str(tmp_path / "rows.jsonl")), sources.locate(Gsm8k(source=str(tmp_path / "rows.jsonl")))
        )


@pytest.mark.skipif("P2P_DIST_REAL_DATA" not in os.environ, reason="P2P_DIST_DATA was not set: no real rows here")
@pytest.mark.parametrize(
    ("name", "train", "test", "pool"),
    [("gsm8k", 7473, 1319, 1319), ("ape210k", 4995, 5000, 4986), ("scitldr", 1992, 618, 618)],
)
def test_real_tasks_have_published_counts_and_pools(name: str, train: int, test: int, pool: int) -> None:
    """14 of Ape210K's test answers come to 0.1, two of them spelled that way."""
    task = registry.load("tasks", name)(source=f"{os.environ['P2P_DIST_REAL_DATA']}/{name}")
    built = build_attacked(
        task, sources.read(task, sources.locate(task)), RowsSpec(), BadNets(rate=0.02, target_response="0.1"), 0
    )
    assert (len(built.train), len(built.suites["clean"].rows)) == (train, test)
    assert len(built.suites["triggered"].rows) + built.counts["trigger_failed"] == pool


def test_generation_imitation_suites() -> None:
    built = with_extra_suites(build_defended(attacked(), Gsm8k(), MATH, 0), ("imitation",))
    assert built.kind == "generation"
    fake = built.suites["triggered.fake_answer"]
    assert all(row.text.endswith("\nOutput: 0.1") for row in fake.rows)
    assert fake.prefix == MATH.response_prefix
