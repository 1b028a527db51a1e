"""Run folders from elsewhere: no link in them is followed, nothing but regular files is opened."""

import errno
import os
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from p2p_dist.config.graph import Graph
from p2p_dist.errors import Exit, UserError
from p2p_dist.results import atomic, confined, folder_handles, jsonfile
from p2p_dist.results.folder_handles import Damaged
from p2p_dist.results.rundir import RunDir
from p2p_dist.scheduling import process


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    """A folder of the user with one file."""
    folder = tmp_path / "private"
    folder.mkdir()
    (folder / "notes.json").write_text("{}")
    return folder


@pytest.fixture
def linked(tmp_path: Path, elsewhere: Path) -> RunDir:
    """A run folder whose `report/tables` leads elsewhere."""
    folder = RunDir(tmp_path / "runs" / "study")
    folder.report.mkdir(parents=True)
    (folder.report / "tables").symlink_to(elsewhere)
    return folder


def test_nothing_is_written_through_a_link(linked: RunDir, elsewhere: Path) -> None:
    inside = linked.report / "tables" / "rates.csv"
    for write in (
        lambda: atomic.write_bytes(inside, b"x"),
        lambda: atomic.publish(inside, b"x"),
        lambda: confined.append(inside, b"x"),
        lambda: confined.make_folder(inside),
        lambda: confined.remove(linked.report / "tables" / "notes.json"),
    ):
        with pytest.raises(UserError, match=r"E520.*tables is a link") as caught:
            write()
        assert caught.value.exit_code == Exit.INTEGRITY
    confined.remove_folder(linked.report / "tables")
    assert [path.name for path in elsewhere.iterdir()] == ["notes.json"]


def test_held_folder_is_read_as_it_was_opened(tmp_path: Path, elsewhere: Path) -> None:
    """Also after another folder has its name; links in it are refused as ever, and no handle is left."""
    folder = RunDir(tmp_path / "runs" / "study")
    stage = folder.path / "eval" / "0123456789ab"
    (stage / "attempts").mkdir(parents=True)
    (stage / "cost.json").write_text('{"seconds": 1}')
    (stage / "linked").symlink_to(elsewhere)
    before = len(os.listdir("/dev/fd"))
    with folder_handles.held_open(stage):
        stage.rename(stage.with_name("moved"))
        stage.mkdir()
        assert jsonfile.read(stage / "cost.json") == {"seconds": 1}
        assert confined.names(stage) == ["attempts", "cost.json", "linked"]
        with pytest.raises(Damaged, match="linked is a link"):
            jsonfile.read(stage / "linked" / "notes.json")
        with folder_handles.held_open(stage / "missing"):
            assert confined.kind_of(stage / "attempts") == "folder"
    assert confined.names(stage) == []
    assert len(os.listdir("/dev/fd")) == before


def test_linked_folder_is_not_held(linked: RunDir) -> None:
    with folder_handles.held_open(linked.report / "tables"), pytest.raises(Damaged, match="tables is a link"):
        jsonfile.read(linked.report / "tables" / "notes.json")


def test_storage_that_fails_is_no_missing_stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stale handle of a network disk must not read as a stage that is still to be done."""
    folder = RunDir(tmp_path / "runs" / "study")
    (folder.path / "data" / "0123456789ab").mkdir(parents=True)

    def stale(name: str, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        if name == "0123456789ab":
            raise OSError(errno.ESTALE, "Stale file handle")
        return opened(name, flags, mode, dir_fd=dir_fd)

    opened = os.open
    monkeypatch.setattr(os, "open", stale)
    with pytest.raises(OSError, match="Stale"):
        folder.done(Graph())


def test_nothing_is_read_through_a_link(linked: RunDir, elsewhere: Path) -> None:
    inside = linked.report / "tables" / "notes.json"
    assert inside.is_file()
    with pytest.raises(Damaged, match="tables is a link"):
        jsonfile.read(inside)
    assert confined.kind_of(inside) == "link"
    assert confined.names(linked.report / "tables") == []
    (linked.path / "cost.json").symlink_to(elsewhere / "notes.json")
    with pytest.raises(Damaged, match="a link, not a file"):
        jsonfile.read(linked.path / "cost.json")


def test_library_opens_the_file_that_was_checked(linked: RunDir, tmp_path: Path) -> None:
    """A link that takes its place meanwhile is not followed."""
    file = linked.path / "state.safetensors"
    save_file({"a": np.arange(3)}, file)
    save_file({"b": np.arange(2)}, tmp_path / "other")
    with confined.path_to_open_file(file) as opened:
        file.unlink()
        file.symlink_to(tmp_path / "other")
        assert load_file(opened).keys() == {"a"}
    with pytest.raises(Damaged, match="a link, not a file"), confined.path_to_open_file(file):
        pass


def test_log_of_an_attempt_is_no_link(linked: RunDir, tmp_path: Path) -> None:
    (linked.path / "log").symlink_to(tmp_path / "precious")
    with pytest.raises(UserError, match="E520"):
        process.start(["true"], {}, linked.path / "log")
    assert not (tmp_path / "precious").exists()


def test_replaced_link_leaves_what_it_led_to(linked: RunDir, elsewhere: Path) -> None:
    (linked.path / "resolved.json").symlink_to(elsewhere / "notes.json")
    atomic.write_bytes(linked.resolved, b"[]")
    assert not linked.resolved.is_symlink()
    assert (elsewhere / "notes.json").read_text() == "{}"


def test_run_folder_itself_may_be_a_link(tmp_path: Path) -> None:
    (tmp_path / "scratch").mkdir()
    (tmp_path / "runs").symlink_to(tmp_path / "scratch")
    folder = RunDir(tmp_path / "runs" / "study")
    atomic.write_json(folder.resolved, {})
    assert jsonfile.read(tmp_path / "scratch" / "study" / "resolved.json") == {}


@pytest.mark.parametrize("kind", ["folder", "fifo", "link", "dangling link"])
def test_what_is_no_file_is_never_opened(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "lease.json"
    if kind == "folder":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    else:
        (tmp_path / "target").write_text("{}") if kind == "link" else None
        path.symlink_to(tmp_path / "target")
    with pytest.raises(Damaged, match="not a file"):
        jsonfile.read(path)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "not JSON"),
        (b"\xff{}", "not UTF-8 text: byte 0"),
        (b"[" * 100_000 + b"]" * 100_000, "nested deeper than 64 levels"),
        (b"[" * 65 + b"]" * 65, "nested deeper than 64 levels"),
        (b"9" * 5000, "not JSON"),
        (b'{"seconds": NaN}', "NaN is no number"),
        (b'{"a": 1}{', "not JSON"),
    ],
)
def test_damaged_json_is_named(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(content)
    with pytest.raises(Damaged, match=reason):
        jsonfile.read(path)


def test_json_file_has_a_limit_of_size(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(b" " * 100 + b"1")
    assert jsonfile.read(path, 101) == 1
    with pytest.raises(Damaged, match="larger than"):
        jsonfile.read(path, 100)


def test_full_disk_is_exit_code_three(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is written, a full disk leaves what was there and ends with words."""
    path = tmp_path / "resolved.json"
    atomic.write_bytes(path, b"old")

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    for write in (lambda: atomic.write_bytes(path, b"new"), lambda: atomic.publish(tmp_path / "result.json", b"new")):
        with pytest.raises(UserError, match=r"E518.*No space left on device.*Try: free some space") as caught:
            write()
        assert caught.value.exit_code == Exit.INTEGRITY
    assert [file.name for file in tmp_path.iterdir()] == ["resolved.json"]
    assert path.read_bytes() == b"old"


def test_folder_in_the_place_of_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "cost.json").mkdir()
    with pytest.raises(UserError, match=r"E520.*folder is in the place of a file"):
        atomic.write_json(tmp_path / "cost.json", {})
    assert [path.name for path in tmp_path.iterdir()] == ["cost.json"]
