"""Any file of a run folder may be anything: what reads it is right, or names the file.

A finished study is made once. Every example damages one path of it (bytes changed, cut, replaced by other JSON, by a
folder, a FIFO or a link, or deleted) and reads it all; rates must be those of the undamaged study or missing, and what
is raised is a UserError with place and fix. `P2P_DIST_FUZZ` sets the number of examples.
"""

import os
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from p2p_dist.errors import UserError
from p2p_dist.report import status_view
from p2p_dist.results import checksums, datastore, index, predictions, timings
from p2p_dist.results.collect import Collected, read_study
from p2p_dist.results.progress import read_progress
from p2p_dist.results.rundir import RunDir, StageDir
from tests.results.test_records import ONE
from tests.synthetic import make_study

EXAMPLES = int(os.environ.get("P2P_DIST_FUZZ", "60"))
JSON = (b"null", b"[]", b"{}", b'""', b"7", b"1e999", b"[" * 100_000, b'{"stages": [null], "runs": {}}', b"9" * 5000)
COUNTS: Counter[str] = Counter()
Rates = dict[str, object]


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory, data_root: Path) -> Iterator[tuple[RunDir, list[Path], Rates]]:
    """A finished study, its files by relative path, and its rates; prints how the examples ended."""
    folder = make_study(tmp_path_factory.mktemp("fuzz"), data_root, ONE)
    index.refresh(folder)
    files = sorted(path.relative_to(folder.path) for path in folder.path.rglob("*") if path.is_file())
    yield folder, files, rates_of(read_study(folder, alive=False))
    print(f"fuzz of run folders: {sum(COUNTS.values())} examples, {dict(COUNTS)}")


def rates_of(collected: Collected) -> Rates:
    """Rates of every evaluated run, by its evaluation."""
    return {str(run.ids["eval"]): dict(run.rates) for run in collected.runs if run.rates}


def damage(path: Path, kind: str, position: float, content: bytes) -> None:
    """Put something else in the place of a file."""
    before = path.read_bytes()
    place = int(position * len(before))
    path.unlink()
    match kind:
        case "flip":
            path.write_bytes(before[:place] + bytes([(before[place] if before else 0) ^ 1]) + before[place + 1 :])
        case "insert":
            path.write_bytes(before[:place] + content + before[place:])
        case "cut":
            path.write_bytes(before[:place])
        case "replace":
            path.write_bytes(content)
        case "folder":
            path.mkdir()
        case "fifo":
            os.mkfifo(path)
        case "link":
            path.symlink_to("/etc/hostname")


def read_all(folder: RunDir) -> tuple[Rates, bool]:
    """(rates, True if something was named) of everything that reads files and counts; raises what those raise."""
    owner = status_view.read_state(folder)[1]
    collected = read_study(folder, alive=False)
    assert status_view.text(collected, owner)
    status_view.to_json(collected, owner)
    assert status_view.text(read_progress(folder)[0], owner)
    named = bool(collected.problems) | bool(index.refresh(folder).problems)
    named |= bool(timings.read(folder.path.parent, ()).unread)
    for path in sorted(folder.path.glob("*/*")):
        named |= read_stage(StageDir(path, path.parent.name), named)
    return rates_of(collected), named


def read_stage(stage: StageDir, named: bool) -> bool:
    """Read what workers and the report read of one stage; True if something was refused."""
    if stage.kind not in ("data", "train", "eval") or not stage.is_done():
        return named
    try:
        stage.parse_stage()
        if stage.kind == "data":
            datastore.read(stage)
        elif stage.kind == "train":
            checksums.adapter(stage)
        else:
            predictions.read(stage)
    except UserError as error:
        check_words(error)
        return True
    return stage.metrics_problem() is not None


def check_words(error: UserError) -> None:
    """Every problem says where it is and what to try."""
    assert all(problem.code and problem.where and problem.fix for problem in error.problems), error


@settings(
    max_examples=EXAMPLES,
    derandomize=EXAMPLES <= 60,
    deadline=None,
    database=None,
    phases=[Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    number=st.integers(0, 10_000),
    kind=st.sampled_from(["flip", "insert", "cut", "replace", "folder", "fifo", "link", "delete"]),
    position=st.floats(0, 0.999),
    content=st.one_of(st.sampled_from(JSON), st.binary(min_size=1, max_size=30)),
)
def test_run_folder_damaged_anywhere_is_right_or_refused(
    study: tuple[RunDir, list[Path], Rates], number: int, kind: str, position: float, content: bytes
) -> None:
    folder, files, expected = study
    path = folder.path / files[number % len(files)]
    aside = folder.path.parent.parent / "aside"
    shutil.copy2(path, aside)
    try:
        damage(path, kind, position, content)
        rates, named = read_all(folder)
        assert all(rates[id_] == expected[id_] for id_ in rates), f"another rate after {kind} of {path}"
        COUNTS["named" if named else "no difference"] += 1
        assert named or rates == expected or kind == "delete", f"{kind} of {path} is not named"
    except UserError as error:
        COUNTS["refused"] += 1
        check_words(error)
    finally:
        if path.is_dir():
            path.rmdir()
        path.unlink(missing_ok=True)
        shutil.move(aside, path)
