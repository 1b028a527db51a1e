"""An attacker who hands on weights: trained once, begun with by every run, on rows that are clean."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from p2p_dist.errors import Exit
from p2p_dist.results import datastore
from p2p_dist.results.rundir import RunDir
from tests import in_process


@pytest.mark.usefixtures("with_data")
def test_poisoned_weights(tmp_path: Path, study_file: Callable[[], Path]) -> None:
    attacks = "attack=[{name: badnets, rate: 0.05}, {name: badnets, rate: 0.05, via: weights}]"
    done = in_process.cli(
        study_file(),
        tmp_path,
        attacks,
        "exclude=[{attack: 'badnets(rate=0.05)', defense: p2p}]",
        "--backend",
        "local",
        "--json",
    )
    assert done.returncode == Exit.OK, done.stderr
    runs = json.loads((tmp_path / "tiny" / "resolved.json").read_text())["runs"]
    by_data, undefended, defended = runs
    folder = RunDir(tmp_path / "tiny")
    for run in (undefended, defended):
        victim = folder.at("train", run["train"]).read_stage()
        assert victim.reads["start"] == by_data["train"]
        rows = datastore.read(folder.at("data", victim.reads["rows"]))
        assert not any(note.origin == "poisoned" for note in rows.notes)
        assert not any("mn" in row.text.split() for row in rows.train)
    suites = [
        datastore.read(folder.at("data", folder.at("eval", run["eval"]).read_stage().reads["rows"])).suites
        for run in (by_data, undefended)
    ]
    assert suites[0]["triggered"] == suites[1]["triggered"]
    assert all(run["rates"]["asr_ext"]["n"] == 10 for run in json.loads(done.stdout)["table"])
