"""Choice of the one run of a study that an export is made from."""

from pathlib import Path
from typing import Any

import pytest

from p2p_dist.deployment.finished_run import _only, _simulated, _wanted
from p2p_dist.errors import UserError
from p2p_dist.results.rundir import RunDir

CELL = {"task": "sst2", "model": "tiny", "attack": "none", "defense": "p2p", "seed": "0"}


def run_of(id_: str, **labels: str) -> dict[str, Any]:
    return {"cell": {**CELL, **labels}, "eval": id_, "train": id_, "floor": None}


RUNS = [run_of("a", training="lora.r=4"), run_of("b", training="lora.r=8")]


def test_only_run_of_a_training_is_chosen_by_it(tmp_path: Path) -> None:
    """Two runs that differ in their training alone; without its label the message names both."""
    folder = RunDir(tmp_path)
    assert _only(RUNS, _wanted(["training=lora.r=8"]), folder)["eval"] == "b"
    with pytest.raises(UserError, match=r"E152.*2 runs fit:\n  training=lora.r=4\n  training=lora.r=8"):
        _only(RUNS, _wanted(["defense=p2p"]), folder)
    with pytest.raises(UserError, match=r"E152.*'sed' is no axis"):
        _wanted(["sed=0"])


def test_only_run_of_a_study_with_one_training(tmp_path: Path) -> None:
    assert _only([run_of("a")], {}, RunDir(tmp_path))["eval"] == "a"
    with pytest.raises(UserError, match=r"E152.*no run fits"):
        _only([run_of("a")], _wanted(["training=lora.r=4"]), RunDir(tmp_path))


def test_simulated_attacks_are_of_the_same_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last training's run of the attack does not stand in for that of the exported run."""
    attacked = [run_of(f"{one['eval']}2", **{**one["cell"], "attack": "badnets"}) for one in RUNS]
    monkeypatch.setattr("p2p_dist.deployment.finished_run._result_if_done", lambda folder, id_: id_)
    (simulated,) = _simulated(RunDir(tmp_path), RUNS[0]["cell"], [*RUNS, *attacked])
    assert simulated.defended == "a2"  # type: ignore[comparison-overlap]  # ids in place of results
