"""One controller per study: dead and silent owners are taken over, and a revived one can commit nothing."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from p2p_dist.errors import Exit, UserError
from p2p_dist.results import atomic, lease

HOLD = """
import sys, time
from pathlib import Path
from p2p_dist.errors import UserError
from p2p_dist.results import atomic, lease
lease.HEARTBEAT_SECONDS = 0.1
with lease.hold(Path(sys.argv[1])) as mine:
    print("held", flush=True)
    import os
    os.environ.update(mine.environment)
    sys.stdin.readline()
    try:
        atomic.publish(Path(sys.argv[2]), b"late")
    except UserError as error:
        print(error.problems[0].code, flush=True)
"""


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "HEARTBEAT_SECONDS", 0.1)


def holder(folder: Path, result: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder), str(result)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout
    assert process.stdout.readline() == "held\n"
    return process


def test_the_second_is_told_who_has_it(tmp_path: Path) -> None:
    with lease.hold(tmp_path):
        assert lease.owner(tmp_path) == f"process {os.getpid()} on {os.uname().nodename}"
        with pytest.raises(UserError, match="E406") as caught, lease.hold(tmp_path):
            pass
        assert caught.value.exit_code == Exit.OWNED
    assert lease.owner(tmp_path) is None
    with lease.hold(tmp_path) as again:
        assert again.file.name == "000002.json"
    assert [path.name for path in tmp_path.iterdir()] == ["000002.json"]


@pytest.mark.process
def test_a_dead_owner_is_taken_over_at_once(tmp_path: Path) -> None:
    process = holder(tmp_path / "lease", tmp_path / "result")
    assert f"process {process.pid} on" in str(lease.owner(tmp_path / "lease"))
    process.kill()
    process.communicate()
    assert lease.owner(tmp_path / "lease") is None
    with lease.hold(tmp_path / "lease") as mine:
        assert mine.file.name == "000002.json"


@pytest.mark.process
def test_frozen_owner_is_taken_over_and_commits_nothing(tmp_path: Path) -> None:
    """A frozen owner is taken over and commits nothing when it wakes."""
    process = holder(tmp_path / "lease", tmp_path / "result")
    with pytest.raises(UserError, match="E406"):
        lease.take(tmp_path / "lease")
    os.kill(process.pid, signal.SIGSTOP)
    time.sleep(0.1 * lease.SILENT_BEATS + 0.2)
    with lease.hold(tmp_path / "lease") as mine:
        os.kill(process.pid, signal.SIGCONT)
        said, _ = process.communicate("commit\n", timeout=20)
        assert said.split() == ["E411"]
        assert not (tmp_path / "result").exists()
        assert mine.is_held()


def test_a_silent_owner_elsewhere_is_taken_over_after_a_while(tmp_path: Path) -> None:
    (tmp_path / "000007.json").write_text(
        json.dumps({"host": "elsewhere", "boot": "x", "pid": 1, "started": "1", "nonce": "x"})
    )
    with pytest.raises(UserError, match=r"process 1 on elsewhere"):
        lease.take(tmp_path)
    os.utime(tmp_path / "000007.json", (1, 1))
    with lease.hold(tmp_path) as mine:
        assert mine.file.name == "000008.json"


@pytest.mark.process
def test_an_owner_elsewhere_that_shows_life_is_left_alone(tmp_path: Path) -> None:
    """A clock that is hours off does not matter: only whether the time changes."""
    file = tmp_path / "000001.json"
    file.write_text(json.dumps({"host": "elsewhere", "boot": "x", "pid": 1, "started": "1", "nonce": "x"}))
    os.utime(file, (1, 1))
    beat = subprocess.Popen(
        [
            sys.executable,
            "-c",
            f"import os, time\nfor at in range(2, 40): time.sleep(0.05); os.utime({str(file)!r}, (at, at))",
        ]
    )
    with pytest.raises(UserError, match="E406"):
        lease.take(tmp_path)
    beat.wait()


@pytest.mark.process
def test_of_many_takers_one_wins(tmp_path: Path) -> None:
    """Eight processes at once on a free lease, ten rounds: never two owners."""
    code = f"""
import sys
from pathlib import Path
from p2p_dist.errors import UserError
from p2p_dist.results import lease
for at in range(10):
    sys.stdin.readline()
    try:
        print("won" if lease.take(Path({str(tmp_path)!r}) / str(at)).is_held() else "lost", flush=True)
    except UserError:
        print("refused", flush=True)
sys.stdin.readline()
"""
    takers = [
        subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(8)
    ]
    for _ in range(10):
        for taker in takers:
            assert taker.stdin
            taker.stdin.write("go\n")
            taker.stdin.flush()
        assert sorted(taker.stdout.readline().strip() for taker in takers if taker.stdout).count("won") == 1
    for taker in takers:
        taker.communicate("end\n")


def test_who_has_lost_it_commits_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = lease.take(tmp_path / "lease")
    for name, value in mine.environment.items():
        monkeypatch.setenv(name, value)
    atomic.publish(tmp_path / "early", b"1")
    (tmp_path / "lease" / "000002.json").write_text("{}")
    with pytest.raises(UserError, match="E411"):
        mine.check()
    with pytest.raises(UserError, match="E411"):
        atomic.publish(tmp_path / "late", b"1")
    with pytest.raises(UserError, match="E411"), atomic.new_folder(tmp_path / "adapter") as half:
        (half / "x").write_text("1")
    assert not (tmp_path / "adapter").exists()
    assert not list(tmp_path.glob(".tmp-*"))
    mine.release()
    assert not json.loads(mine.file.read_text())["released"]


def test_a_vanished_lease_is_a_lost_one(tmp_path: Path) -> None:
    mine = lease.take(tmp_path)
    mine.file.unlink()
    with pytest.raises(UserError, match="E411"):
        mine.check()


def test_dead_owner_with_a_stamp_in_the_future_is_taken_over(tmp_path: Path) -> None:
    """An owner two hours ahead that is dead never changes its stamp again."""
    file = tmp_path / "000001.json"
    file.write_text(json.dumps({"host": "elsewhere", "boot": "x", "pid": 1, "started": "1", "nonce": "x"}))
    ahead = time.time() + 7200
    os.utime(file, (ahead, ahead))
    before = time.monotonic()
    with lease.hold(tmp_path) as mine:
        assert mine.file.name == "000002.json"
    assert time.monotonic() - before >= 0.1 * lease.SILENT_BEATS


@pytest.mark.parametrize(
    "content",
    [b"", b"\xff", b"[]", b"{}", b'{"pid": "1"}', b'{"pid": 1, "host": 5}', b'{"pid": 1e9}', b"[" * 100_000],
)
def test_damaged_lease_names_nobody(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "000003.json").write_bytes(content)
    assert lease.owner(tmp_path) is None
    assert lease.holders(tmp_path.parent) == []
    with lease.hold(tmp_path) as mine:
        assert mine.file.name == "000004.json"


def test_fifo_and_folder_as_leases_are_never_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "000003.json")
    (tmp_path / "000002.json").mkdir()
    assert lease.owner(tmp_path) is None
    with lease.hold(tmp_path) as mine:
        assert mine.is_held()


def test_removed_run_folder_is_said(tmp_path: Path) -> None:
    mine = lease.take(tmp_path / "study" / "lease")
    shutil.rmtree(tmp_path / "study")
    with pytest.raises(UserError, match=r"E522.*the run folder was removed while the study ran") as caught:
        mine.check()
    assert caught.value.exit_code == Exit.INTEGRITY
    mine.touch()
    mine.release()


@pytest.mark.parametrize("number", [errno.EPERM, errno.EOPNOTSUPP])
def test_lease_without_hard_links_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def refuse(source: object, target: object, **handles: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "link", refuse)
    with pytest.raises(UserError, match="E506"):
        lease.take(tmp_path)
    assert list(tmp_path.iterdir()) == []
