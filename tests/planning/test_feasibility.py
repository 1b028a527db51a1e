"""Studies that can never be are refused when they are planned, with every reason and its place."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from p2p_dist.config.model import ModelRef
from p2p_dist.config.study import RowsSpec
from p2p_dist.data.attacks.addsent import AddSent
from p2p_dist.data.attacks.badnets import BadNets
from p2p_dist.data.attacks.cba import Cba
from p2p_dist.data.build import build_attacked
from p2p_dist.data.knowledge import Knowledge
from p2p_dist.data.row_counts import RowCounts
from p2p_dist.data.tasks.sst2 import Sst2
from p2p_dist.errors import Exit, UserError
from p2p_dist.planning.feasibility import attacked_counts, length_problems
from p2p_dist.scheduling.feasibility import CountedRows, refuse_infeasible
from p2p_dist.scheduling.model_facts import positions_of
from p2p_dist.scheduling.study import open_study
from tests.cli.test_main import invoke
from tests.rows import sentences

pytestmark = pytest.mark.usefixtures("with_data")
Write = Callable[..., Path]
STUDY = """
name: planned
task: rotten_tomatoes
model: tiny
attack:
  - none
  - {name: badnets, rate: 0.05}
defense: none
rows: {train: 64, test: 20, reserve: 20}
train: {num_train_epochs: 2, global_batch: 16}
"""


def planned(path: Path, *overrides: str) -> list[CountedRows]:
    return refuse_infeasible(open_study(path, overrides, path.parent / "runs"))


def test_rows_feasible_study_counted_by_class(study_file: Write) -> None:
    (rows,) = planned(study_file(STUDY))
    assert rows.to_json() == {
        "task": "rotten_tomatoes",
        "train": {"0": 32, "1": 32},
        "reserve": {"0": 10, "1": 10},
        "test": {"0": 10, "1": 10},
    }


@pytest.mark.parametrize(
    ("override", "code", "place", "message"),
    [
        ("attack={name: badnets, target_label: 2}", "E107", "attack.target_label", "not one of the 2 classes"),
        ("attack=[none, {name: badnets, target_label: -1}]", "E107", "attack.1.target_label", "-1 is not one"),
        (
            "attack={name: mtba, mode: parallel, words: [mn, cf], target_label: 1, targets: [1, 5]}",
            "E107",
            "attack.target_label",
            "target_label 5",
        ),
        ("attack={name: badnets, poison_selection: first}", "E107", "attack.poison_selection", "file order"),
        ("attack={name: badnets, rate: 0.5}", "E206", "attack", "needs 32 of 64 rows; only 22 are eligible"),
        ("attack={name: badnets, rate: 0.001, rounding: down}", "E240", "attack.rate", "selects none"),
        ("attack={name: badnets, count: 20, cover: 10}", "E206", "attack.cover", "2 rows are eligible"),
        ("attack={name: badnets, count: 40}", "E206", "attack", "lower attack.count"),
        ("rows={train: 65}", "E205", "rows", "do not divide evenly"),
        ("rows={train: 6000}", "E205", "rows", "3,000 train rows are needed of each class"),
        ("rows={test: 4000}", "E205", "rows", "class 0 has"),
        ("defense={name: p2p, ratio: 0.5}", "E205", "defense.ratio", "set rows.reserve=32"),
        ("defense=[none, {name: clean_ft, ratio: 0.4}]", "E205", "defense.1.ratio", "set rows.reserve=26"),
        ("defense={name: pdb, ratio: 0.4}", "E205", "defense.ratio", "13 trusted rows of every class"),
        ("defense={name: mb_defense, rate: 0.2}", "E205", "defense.rate", "lower defense.rate"),
        ("defense={name: p2p, benign_source: screened, ratio: 0.95}", "E264", "defense.ratio", "class 0 has 28 rows"),
        ("defense={name: p2p_in_weights, p2p: {ratio: 0.5}}", "E205", "defense.p2p.ratio", "set rows.reserve=32"),
        (
            "defense={name: p2p_in_weights, p2p: {benign_source: screened, ratio: 0.95}}",
            "E264",
            "defense.p2p",
            "28 rows",
        ),
        ("train={warmup_steps: 9, num_train_epochs: 2, global_batch: 16}", "E107", "train.warmup_steps", "for 8 steps"),
        ("exclude=[{attack: badnet}]", "E103", "exclude.0.attack", "did you mean 'badnets'"),
        ("exclude=[{task: tomatoes, model: tiny}]", "E103", "exclude.0.task", "'tomatoes'"),
        ("exclude=[{seed: zero}]", "E103", "exclude.0.seed", "'zero'"),
        ("exclude=[{attack: 'badnets(rate=0.7)'}]", "E103", "exclude.0.attack", "name one of none, badnets"),
    ],
)
def test_study_that_can_never_be_is_refused(
    override: str, code: str, place: str, message: str, study_file: Write
) -> None:
    with pytest.raises(UserError) as caught:
        planned(study_file(STUDY), override)
    problem = caught.value.problems[0]
    assert (problem.code, caught.value.exit_code) == (code, Exit.USAGE)
    assert f"({place}" in problem.where
    assert message in str(problem)
    assert problem.fix


def test_exclude_name_that_an_override_took_out_is_accepted(study_file: Write) -> None:
    assert planned(study_file(STUDY), "attack=badnets", "exclude=[{attack: addsent}, {defense: p2p}, {seed: 7}]")


def test_plan_all_reasons_at_once_with_lines(study_file: Write, tmp_path: Path) -> None:
    """The 15 runs of `defenses_sst2` that could not be: CBA adds rows, and a share of more rows needs more of them."""
    text = STUDY.replace("attack:\n", "attack:\n  - {name: cba, rate: 0.05}\n").replace(
        "defense: none",
        "defense:\n  - {name: p2p, ratio: 0.25}\n  - {name: clean_ft, ratio: 0.3}\n  - {name: clean_only, ratio: 0.05}",
    )
    code, answer, _ = invoke("plan", str(study_file(text)), "--runs-dir", str(tmp_path / "runs"), "--json")
    problems = json.loads(answer)["problems"]
    assert code == Exit.USAGE
    assert [(problem["where"].rpartition("/")[2], problem["fix"].partition(",")[0]) for problem in problems] == [
        ("study.yaml:10 (defense.0.ratio)", "set rows.reserve=22"),
        ("study.yaml:11 (defense.1.ratio)", "set rows.reserve=27"),
    ]
    assert all("attack cba" in problem["message"] for problem in problems)
    assert not (tmp_path / "runs").exists()


def test_run_folder_that_cannot_be_made_is_refused(study_file: Write, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for runs_dir in (tmp_path / "file" / "runs", tmp_path / ("x" * 300)):
        code, _, error = invoke("plan", str(study_file(STUDY)), "--runs-dir", str(runs_dir))
        assert (code, "error[E404]" in error) == (Exit.USAGE, True)


@pytest.mark.parametrize(
    ("config", "longest"),
    [
        ({"max_position_embeddings": 64}, 64),
        ({"n_positions": 32}, 32),
        ({"text_config": {"max_position_embeddings": 96}}, 96),
        ({"max_position_embeddings": None}, None),
        ([], None),
        (None, None),
    ],
)
def test_positions_of_a_model_folder(config: object, longest: int | None, tmp_path: Path) -> None:
    if config is not None:
        (tmp_path / "config.json").write_text(json.dumps(config))
    assert positions_of(ModelRef("folder", {"source": "folder"}, {"path": str(tmp_path)})) == longest


def test_rows_longer_than_the_model_are_refused(study_file: Write) -> None:
    study = open_study(study_file(STUDY), ["train.max_length=128"], study_file(STUDY).parent)
    (problem,) = length_problems(study.spec, {"tiny": 127, "other": 128})
    assert (problem.code, problem.where) == ("E107", "train.max_length")
    assert "127 positions of model tiny" in problem.what
    assert problem.fix.startswith("set train.max_length=127")


def test_plan_rows_on_the_hub_are_not_known(study_file: Write, tmp_path: Path) -> None:
    arguments = [str(study_file(STUDY)), "task=agnews", "attack=none", "--runs-dir", str(tmp_path)]
    code, answer, error = invoke("plan", *arguments)
    assert code == 0, error
    assert "not checked: rows per class of agnews: the rows are on the hub" in answer


@pytest.mark.parametrize(
    "attack",
    [
        BadNets(rate=0.1),
        BadNets(rate=0.1, poison_mode="append", cover=3),
        BadNets(rate=0.1, label_policy="clean"),
        BadNets(rate=0.1, knows=Knowledge(benign_trigger="Q: ", extended_label=True)),
        AddSent(rate=0.1, via="weights"),
        Cba(rate=0.1, label_policy="dirty"),
        Cba(rate=0.1, alpha=0.5),
    ],
    ids=lambda attack: repr(attack)[:60],
)
def test_attacked_counts_agree_with_rows_that_are_built(attack: BadNets) -> None:
    """The counts of a plan are those of the rows, or upper bounds of classes."""
    raw = {
        split: [(str(row["text"]), int(row["label"])) for row in sentences(n, n)]
        for split, n in (("train", 200), ("test", 20))
    }
    before = build_attacked(Sst2(), raw, RowsSpec(reserve=60), BadNets(rate=0.1), 0, poison=False)
    built = build_attacked(Sst2(), raw, RowsSpec(reserve=60), attack, 0, poison=not attack.by_weights)
    counts = attacked_counts(attack, RowCounts.of(before.train, before.reserve, 2))
    real = RowCounts.of(built.train, built.reserve, 2)
    assert (counts.train, counts.reserve) == (real.train, real.reserve)
    assert all(counts.train_by_class[label] >= rows for label, rows in real.train_by_class.items())
    if attack.label_policy == "dirty" and not isinstance(attack, Cba):
        assert {label: rows for label, rows in counts.train_by_class.items() if label < 2} == {
            label: rows for label, rows in real.train_by_class.items() if label < 2
        }
