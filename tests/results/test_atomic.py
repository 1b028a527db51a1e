"""Files are whole or absent; results never change."""

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from p2p_dist.errors import Exit, UserError
from p2p_dist.results import atomic


def test_publish_once(tmp_path: Path) -> None:
    path = tmp_path / "eval" / "result.json"
    atomic.publish(path, b"one")
    atomic.publish(path, b"one")
    with pytest.raises(UserError, match="E405") as caught:
        atomic.publish(path, b"two")
    assert caught.value.exit_code == Exit.INTEGRITY
    assert path.read_bytes() == b"one"
    assert [p.read_bytes() for p in path.parent.glob("*.conflict-*")] == [b"two"]
    assert not list(path.parent.glob(".tmp-*"))


def test_a_folder_appears_only_when_it_is_whole(tmp_path: Path) -> None:
    def fail_half_way() -> None:
        with atomic.new_folder(tmp_path / "adapter") as half:
            (half / "a").write_text("1")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail_half_way()
    assert list(tmp_path.iterdir()) == []
    with atomic.new_folder(tmp_path / "adapter") as half:
        (half / "a").write_text("1")
    assert (tmp_path / "adapter" / "a").read_text() == "1"


def test_json_refuses_nan(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        atomic.write_json(tmp_path / "x.json", {"loss": float("nan")})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.process
def test_killed_writers_leave_old_or_new(tmp_path: Path) -> None:
    """A writer that replaces a file over and over is killed 20 times; a reader never finds half a file."""
    path = tmp_path / "x.json"
    code = (
        "from p2p_dist.results import atomic; from pathlib import Path\nn = 0\n"
        f"while True:\n    n += 1; atomic.write_bytes(Path({str(path)!r}), str(n % 10).encode() * 100_000)"
    )
    for _ in range(20):
        writer = subprocess.Popen([sys.executable, "-c", code])
        deadline = time.monotonic() + 20
        while not path.exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.02)
        os.kill(writer.pid, signal.SIGKILL)
        writer.wait()
        content = path.read_bytes()
        assert len(content) == 100_000
        assert len(set(content)) == 1


def test_without_hard_links_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(source: object, target: object, **handles: object) -> None:
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    monkeypatch.setattr(os, "link", refuse)
    with pytest.raises(UserError, match="E506"):
        atomic.publish(tmp_path / "result.json", b"one")
    assert list(tmp_path.iterdir()) == []


def test_a_link_whose_answer_was_lost_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    link = os.link

    def lose_the_answer(source: str, target: str, **handles: Any) -> None:
        link(source, target, **handles)
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "link", lose_the_answer)
    atomic.publish(tmp_path / "result.json", b"one")
    assert [path.name for path in tmp_path.iterdir()] == ["result.json"]
