"""The verbs over results, through the command line."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from p2p_dist.cli.main import app
from p2p_dist.errors import Exit
from p2p_dist.results import resultfile
from p2p_dist.results.rundir import RunDir
from tests.results.test_index import SMALL
from tests.synthetic import collapse, make_study


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
    numbers = "SELECT 'NaN'::DOUBLE AS x, 1.5::DECIMAL(3,1) AS y"
    assert invoke("query", numbers, "--runs-dir", runs, "--json")[1].split() == [
        *"[{",
        '"x":',
        "null,",
        '"y":',
        '"1.5"',
        *"}]",
    ]
    assert invoke("query", SQL, "--runs-dir", runs, "--csv")[1].splitlines()[5] == "none,none,2,,"


def test_query_names_what_is_wrong(runs: Path) -> None:
    assert "E510" in invoke("query", "SELECT x FROM cells", "--runs-dir", runs)[2]
    assert "E402" in invoke("query", SQL, "--runs-dir", runs, "--study", "other")[2]
    assert "did you mean 'synthetic'" in invoke("query", SQL, "--runs-dir", runs, "--study", "sinthetic")[2]
    result = next(iter(runs.rglob("result.json")))
    RunDir(result.parents[2]).index.unlink(missing_ok=True)
    result.write_text("{")
    code, said, error = invoke("query", SQL, "--runs-dir", runs)
    assert code == Exit.INTEGRITY
    assert "E502" in error
    assert said


def collapsed_eval(runs: Path, **wanted: str) -> str:
    """Make the model of one cell a collapsed one."""
    found = json.loads((runs / "synthetic" / "resolved.json").read_text())["runs"]
    run = next(run for run in found if wanted.items() <= run["cell"].items())
    collapse(RunDir(runs / "synthetic").at("eval", run["eval"]).result)
    return str(run["eval"])


def test_a_collapsed_model_is_a_column_and_its_floor_is_none(runs: Path) -> None:
    rival = collapsed_eval(runs, attack="badnets", defense="p2p", seed="0")
    clean = collapsed_eval(runs, attack="none", defense="none", seed="1")

    def ask(sql: str) -> list[dict[str, Any]]:
        return list(json.loads(invoke("query", sql, "--runs-dir", runs, "--json")[1]))

    fallen = ask("SELECT attack, defense, seed FROM cells WHERE collapsed ORDER BY ALL")
    assert fallen == [
        {"attack": "badnets", "defense": "p2p", "seed": 0},
        {"attack": "none", "defense": "none", "seed": 1},
    ]
    assert ask("SELECT count(*) AS n FROM cells WHERE NOT collapsed") == [{"n": 10}]
    assert {row["eval"] for row in ask("SELECT DISTINCT eval FROM rates WHERE collapsed")} == {rival, clean}
    assert ask("SELECT DISTINCT seed FROM cells WHERE attack <> 'none' AND floor IS NULL") == [{"seed": 1}]
    table = json.loads(invoke("status", "synthetic", "--runs-dir", runs, "--json")[1])["table"]
    assert sum(row["collapsed"] for row in table) == 2
    assert [row["cell"]["seed"] for row in table if row["cell"]["attack"] != "none" and row["asr_floor"] is None] == [
        "1"
    ] * 4


def test_compare_marks_collapsed_models(made: Path, runs: Path) -> None:
    collapsed_eval(runs, attack="badnets", defense="p2p", seed="0")
    found = json.loads(invoke("compare", made / "synthetic", runs / "synthetic", "--json")[1])["rates"]
    assert not any(row["first_collapsed"] for row in found)
    assert {
        (row["cell"]["attack"], row["cell"]["defense"], row["cell"]["seed"], row["rate"])
        for row in found
        if row["second_collapsed"]
    } == {
        ("badnets", "p2p", "0", "ca_ext"),
        ("badnets", "p2p", "0", "asr_ext"),
    }
    said = invoke("compare", made / "synthetic", runs / "synthetic")[1]
    assert said.count(" collapsed") == 2


def test_mirror_live_ends_with_the_study(runs: Path, tmp_path: Path) -> None:
    code, said, _ = invoke(
        "mirror", "synthetic", "--to", "tensorboard", "--out", tmp_path / "m", "--runs-dir", runs, "--live"
    )
    assert (code, said) == (Exit.OK, f"{tmp_path / 'm'}: 12 runs\n")


def lose(runs: Path, count: int, first: int = 0) -> list[Path]:
    """Take the results of some evaluations away."""
    gone = sorted(runs.rglob("result.json"))[first : first + count]
    for path in gone:
        path.unlink()
    return gone


def contents(runs: Path) -> dict[str, bytes]:
    """What a study consists of: not what is derived from it, nor who held its folder."""
    derived = ("index.parquet", "resolved.json", "provenance.json")
    files = (
        path for path in runs.rglob("*") if path.is_file() and path.name not in derived and path.parent.name != "lease"
    )
    return {str(path.relative_to(runs)): path.read_bytes() for path in files}


@pytest.mark.parametrize("into", [True, False])
def test_two_halves_make_the_whole(made: Path, tmp_path: Path, into: bool) -> None:
    whole = contents(made / "synthetic")
    first, second = (Path(shutil.copytree(made / "synthetic", tmp_path / side / "synthetic")) for side in ("a", "b"))
    lose(first, 5)
    lose(second, 5, first=9)
    target = tmp_path / "c" / "synthetic" if into else first
    code, said, error = invoke("merge", first, second, *(["--into", target] if into else []))
    assert (code, error) == (Exit.OK, "")
    assert "0 in conflict" in said
    assert contents(target) == whole
    assert json.loads(invoke("status", target, "--json")[1])["done"] == 12
    before = contents(target)
    assert invoke("merge", target, second)[0] == Exit.OK, "again changes nothing"
    assert contents(target) == before


def test_a_conflict_is_shown_and_not_chosen(made: Path, tmp_path: Path, data_root: Path) -> None:
    """The same evaluation with another answer: here, the other cluster's model said something else about one row."""
    first, second = (Path(shutil.copytree(made / "synthetic", tmp_path / side / "synthetic")) for side in ("a", "b"))
    path = next(path for path in sorted(second.rglob("result.json")) if "asr_ext" in path.read_text())
    body = json.loads(path.read_bytes())
    rate = body["rates"]["asr_ext"]
    other = rate["k"] - 1 if rate["k"] else 1
    body["rates"]["asr_ext"] = {"k": other, "n": rate["n"], "rate": other / rate["n"]}
    del body["sha256"]
    path.write_bytes(resultfile.seal(body))
    adapter = next(iter(sorted(second.rglob("adapter_config.json"))))
    adapter.write_text('{"another": 1}')
    code, said, error = invoke("merge", first, second, "--into", tmp_path / "c")
    assert code == Exit.INTEGRITY
    assert "2 in conflict" in said
    assert error.count("E507") == 2
    merged = tmp_path / "c"
    assert len(list(merged.rglob("result.json.conflict-*"))) == len(list(merged.rglob("adapter.conflict-*"))) == 1
    code, _, _ = invoke("status", merged)
    assert code == Exit.INTEGRITY
    rows = json.loads(
        invoke(
            "query",
            f"SELECT count(*) AS n FROM rates WHERE eval = '{path.parent.name}'",
            "--runs-dir",
            tmp_path,
            "--study",
            "c",
            "--json",
        )[1]
    )
    assert rows == [{"n": 0}], "neither counts"


def test_different_studies_and_damaged_results_are_not_merged(made: Path, tmp_path: Path, data_root: Path) -> None:
    other = make_study(tmp_path / "o", data_root, SMALL.replace("name: synthetic", "name: other"))
    assert "E511" in invoke("merge", made / "synthetic", other.path)[2]
    assert "E402" in invoke("merge", made / "synthetic", tmp_path / "nothing", "--into", tmp_path / "c")[2]
    second = Path(shutil.copytree(made / "synthetic", tmp_path / "b"))
    sorted(second.rglob("result.json"))[0].write_text("{")
    code, _, error = invoke("merge", second, made / "synthetic", "--into", tmp_path / "d")
    assert code == Exit.INTEGRITY
    assert "E502" in error
    assert contents(tmp_path / "d") == contents(made / "synthetic"), "the good one took its place"


def test_compare(made: Path, tmp_path: Path, data_root: Path) -> None:
    runs = Path(shutil.copytree(made, tmp_path / "runs"))
    make_study(
        tmp_path,
        data_root,
        SMALL.replace("name: synthetic", "name: other"),
        overrides=["train.learning_rate=1e-5", "seed=[1, 2]"],
    )
    found = json.loads(invoke("compare", "synthetic", "other", "--runs-dir", runs, "--json")[1])
    assert {row["cell"]["seed"] for row in found["rates"]} == {"1"}
    assert len(found["only_first"]) == len(found["only_second"]) == 6
    tested = [row for row in found["rates"] if row["rate"] == "ca_ext"]
    assert len(tested) == 6
    assert all(0 <= row["p"] <= row["p_holm"] <= 1 for row in tested)
    same = json.loads(invoke("compare", "synthetic", runs / "synthetic", "--runs-dir", runs, "--json")[1])
    assert {row["p"] for row in same["rates"] if row["p"] is not None} == {1.0}
    code, said, _ = invoke("compare", "synthetic", "other", "--runs-dir", runs)
    assert code == Exit.OK
    assert "6 evaluated runs are only in synthetic" in said


def test_report_writes_nothing_through_a_link(runs: Path, tmp_path: Path) -> None:
    """A run folder from elsewhere may hold links to other folders of the reader."""
    private = tmp_path / "private"
    private.mkdir()
    (private / "notes.md").write_text("mine")
    report = runs / "synthetic" / "report"
    report.mkdir(exist_ok=True)
    (report / "tables").symlink_to(private)
    code, _, error = invoke("report", "synthetic", "--runs-dir", runs)
    assert (code, "E520" in error) == (Exit.INTEGRITY, True), error
    assert {path.name: path.read_text() for path in private.iterdir()} == {"notes.md": "mine"}


@pytest.mark.parametrize("name", ["notes", "eval/notes", "result.json"])
def test_merge_refuses_links_in_its_input(made: Path, runs: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / "private").mkdir()
    path = next((runs / "synthetic").glob("eval/*/result.json")) if name == "result.json" else runs / "synthetic" / name
    path.unlink(missing_ok=True)
    path.symlink_to(tmp_path / "private")
    code, _, error = invoke("merge", made / "synthetic", runs / "synthetic", "--into", tmp_path / "both")
    assert (code, "error[E523]" in error, str(path) in error) == (Exit.INTEGRITY, True, True)


def test_merge_leaves_out_a_stage_with_a_flipped_bit(made: Path, runs: Path, tmp_path: Path) -> None:
    manifest = next((runs / "synthetic").glob("data/*/manifest.json"))
    manifest.write_text(manifest.read_text() + " ")
    code, _, error = invoke("merge", runs / "synthetic", made / "synthetic", "--into", tmp_path / "both")
    assert (code, "error[E519]" in error) == (Exit.INTEGRITY, True)
    assert contents(tmp_path / "both") == contents(made / "synthetic"), "the good one took its place"


def test_query_cannot_write_files(runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".tmp").mkdir()
    for target in (".tmp/x", "x.csv", "/tmp/p2p_dist_query.csv"):
        assert "E510" in invoke("query", f"COPY (SELECT 1) TO '{target}'", "--runs-dir", runs)[2]
    assert not list((tmp_path / ".tmp").iterdir())


def test_query_shows_hostile_cells_as_text(runs: Path) -> None:
    cells = "SELECT '=1+1' AS a, '\x1b[2J' AS b, '-x' AS c, -1.5 AS d"
    said = invoke("query", cells, "--runs-dir", runs, "--csv")[1]
    assert said == "a,b,c,d\n'=1+1,\\x1b[2J,'-x,-1.5\n"
    assert "\x1b" not in invoke("query", cells, "--runs-dir", runs)[1]
    answer = invoke("query", "SELECT 'inf'::DOUBLE AS x, MAP {1: 2} AS y", "--runs-dir", runs, "--json")[1]
    assert json.loads(answer) == [{"x": None, "y": {"1": 2}}]
    code, _, _ = invoke("query", "SELECT 1 AS x, 2 AS x", "--runs-dir", runs, "--json")
    assert code == Exit.USAGE


@pytest.mark.parametrize("name", ["", "../..", ".hidden", "a\x1b[2Jb", "a/b"])
def test_names_of_studies_are_no_paths(runs: Path, name: str) -> None:
    assert "E402" in invoke("query", "SELECT 1", "--runs-dir", runs, "--study", name)[2]
    _, said, error = invoke("status", name, "--runs-dir", runs)
    assert "error[" in error
    assert "\x1b" not in said + error


def test_foreign_names_cannot_steer_the_terminal(runs: Path) -> None:
    resolved = runs / "synthetic" / "resolved.json"
    study = json.loads(resolved.read_text())
    for run in study["runs"]:
        run["cell"]["model"] = "an\x1b[2Jother"
    resolved.write_text(json.dumps(study))
    for verb in (("status", "synthetic"), ("report", "synthetic"), ("query", "SELECT model FROM cells")):
        _, said, error = invoke(*verb, "--runs-dir", runs)
        assert "\x1b[2J" not in said + error
        assert verb[0] == "report" or "\\x1b[2J" in said
    files = list((runs / "synthetic" / "report" / "tables").iterdir())
    assert [path.name for path in files if b"\x1b" in path.read_bytes()] == []
