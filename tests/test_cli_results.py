"""The verbs over results, through the command line."""

import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from p2p_dist.cli import app
from p2p_dist.errors import Exit
from p2p_dist.results.rundir import RunDir
from tests.results.test_index import SMALL
from tests.synthetic import make_study


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, data_root: Path) -> Path:
    """A runs folder with one finished study."""
    return make_study(tmp_path_factory.mktemp("made"), data_root, SMALL).path.parent


@pytest.fixture
def runs(made: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(made, tmp_path / "runs"))


def invoke(*arguments: object) -> tuple[int, str, str]:
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    return done.exit_code, done.stdout, done.stderr


SQL = "SELECT attack, defense, count(*) AS runs, sum(asr_k) AS k, sum(asr_n) AS n FROM cells GROUP BY ALL ORDER BY ALL"


def test_query_in_words_csv_and_json(runs: Path) -> None:
    code, said, _ = invoke("query", SQL, "--runs-dir", runs)
    assert code == Exit.OK
    assert said.splitlines()[0].split() == ["attack", "defense", "runs", "k", "n"]
    assert said.splitlines()[5].split()[:4] == ["none", "none", "2", "–"], "no attack, no attack success rate"
    rows = json.loads(invoke("query", SQL, "--runs-dir", runs, "--json")[1])
    assert rows[0]["n"] == 60
    assert rows[4] == {"attack": "none", "defense": "none", "runs": 2, "k": None, "n": None}
    assert invoke("query", SQL, "--runs-dir", runs, "--csv")[1].splitlines()[5] == "none,none,2,,"


def test_query_names_what_is_wrong(runs: Path) -> None:
    assert "E510" in invoke("query", "SELECT x FROM cells", "--runs-dir", runs)[2]
    assert "E402" in invoke("query", SQL, "--runs-dir", runs, "--study", "other")[2]
    result = next(iter(runs.rglob("result.json")))
    RunDir(result.parents[2]).index.unlink(missing_ok=True)
    result.write_text("{")
    code, said, error = invoke("query", SQL, "--runs-dir", runs)
    assert code == Exit.INTEGRITY
    assert "E502" in error
    assert said
