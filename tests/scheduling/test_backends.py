"""Every backend keeps the same contract: success, failure, kill, two at once, and nothing left behind."""

import os
import signal
import sys
import time
from pathlib import Path

import pytest

from p2p_dist.errors import UserError
from p2p_dist.scheduling.backend import Backend, ProcessGroup
from p2p_dist.scheduling.ray_local_cluster import PREFIX


def group(tmp_path: Path, code: str, name: str = "log") -> ProcessGroup:
    return ProcessGroup((sys.executable, "-c", code), tmp_path / name, 1, environment={"GREETING": "hello"})


def wait(backend: Backend, name: str, seconds: float = 30) -> int:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if (code := backend.poll(name)) is not None:
            return code
        time.sleep(0.05)
    raise TimeoutError(name)


@pytest.mark.parametrize(
    ("code", "expected"), [("print('fine')", 0), ("raise SystemExit(7)", 7), ("import os; os.kill(os.getpid(), 9)", -9)]
)
def test_exit_codes(backend: Backend, tmp_path: Path, code: str, expected: int) -> None:
    assert wait(backend, backend.start(group(tmp_path, code))) == expected


def test_waiting_ends_soon_after_a_gang_and_takes_no_computing(backend: Backend, tmp_path: Path) -> None:
    names = [backend.start(group(tmp_path, f"import time; time.sleep({nap})", f"log{nap}")) for nap in (2, 60)]
    before, started = time.process_time(), time.monotonic()
    while (code := backend.poll(names[0])) is None:
        backend.wait(names, 30)
        assert time.monotonic() - started < 30
    assert code == 0
    assert time.process_time() - before < 0.3 * (time.monotonic() - started) + 0.05
    backend.stop(names[1])
    assert wait(backend, names[1]) == -signal.SIGTERM


def test_environment_and_log(backend: Backend, tmp_path: Path) -> None:
    code = (
        "import os, sys; print(os.environ['GREETING'], os.getpgrp() == os.getpid(), [k for k in os.environ if k[:4] "
        "== 'RAY_'])"
        "; sys.stdout.flush(); print('e', file=sys.stderr)"
    )
    assert wait(backend, backend.start(group(tmp_path, code))) == 0
    assert (tmp_path / "log").read_text().split("\n")[:2] == ["hello True []", "e"]


def test_two_at_once_and_stop(backend: Backend, tmp_path: Path) -> None:
    names = [backend.start(group(tmp_path, "import time; time.sleep(60)", f"log{at}")) for at in range(2)]
    assert [backend.poll(name) for name in names] == [None, None]
    backend.stop(names[0])
    assert wait(backend, names[0]) == -signal.SIGTERM
    assert backend.poll(names[1]) is None
    backend.stop(names[1])
    assert wait(backend, names[1]) == -signal.SIGTERM


@pytest.mark.parametrize("backend", ["local"], indirect=True)  # under Ray the patience lives in another process
def test_a_worker_that_ignores_the_request_is_ended(
    backend: Backend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("p2p_dist.scheduling.process.STOP_SECONDS", 0.5)
    name = backend.start(
        group(
            tmp_path,
            "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); "
            "time.sleep(60)",
        )
    )
    while not (tmp_path / "log").read_text():
        time.sleep(0.05)
    backend.stop(name)
    assert wait(backend, name) == -signal.SIGKILL


@pytest.mark.parametrize("backend", ["ray"], indirect=True)
def test_ray_is_our_own(backend: Backend) -> None:
    folder = next(path for path in Path("/tmp").glob(f"{PREFIX}{os.getpid()}-*"))
    assert folder.stat().st_mode & 0o777 == 0o700
    assert (folder / "token").stat().st_mode & 0o777 == 0o600
    assert os.environ["RAY_AUTH_MODE"] == "token"
    assert not _listening_beyond_loopback(folder)


def _listening_beyond_loopback(folder: Path) -> list[str]:
    """Addresses other than loopback on which processes of this instance listen."""
    mine = set()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if str(folder) in (process / "cmdline").read_text():
                mine |= {os.readlink(fd) for fd in (process / "fd").iterdir()}
        except (FileNotFoundError, PermissionError, ProcessLookupError):
            continue
    found = []
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(table).read_text().splitlines()[1:]:
            fields = line.split()
            if (
                fields[3] == "0A"
                and f"socket:[{fields[9]}]" in mine
                and not fields[1].startswith(
                    ("0100007F", "0000000000000000FFFF00000100007F", "00000000000000000000000001000000")
                )
            ):
                found.append(fields[1])
    return found


def test_a_process_group_of_two_ranks(backend: Backend, tmp_path: Path) -> None:
    code = (
        "import os, socket, sys; rank = int(os.environ['RANK']); host = (os.environ['MASTER_ADDR'], "
        "int(os.environ['MASTER_PORT']))\n"
        "import time\n"
        "if rank == 0:\n    with socket.create_server(('', host[1])) as server: peer, _ = server.accept(); "
        "print('met', peer.recv(9).decode())\n"
        "else:\n"
        "    for _ in range(100):\n"
        "        try: peer = socket.create_connection(host); break\n"
        "        except OSError: time.sleep(0.1)\n"
        "    peer.sendall(f\"{os.environ['LOCAL_RANK']}/{os.environ['WORLD_SIZE']}\".encode())\n"
    )
    pair = ProcessGroup((sys.executable, "-c", code), tmp_path / "log", 1, ranks=2)
    assert wait(backend, backend.start(pair)) == 0
    assert (tmp_path / "log").read_text() == "met 1/2\n"
    assert (tmp_path / "log.rank1").read_text() == ""


def test_when_a_rank_fails_the_others_are_stopped(backend: Backend, tmp_path: Path) -> None:
    code = "import os, sys, time; time.sleep(0.5) if os.environ['RANK'] == '0' else time.sleep(60); sys.exit(7)"
    pair = ProcessGroup((sys.executable, "-c", code), tmp_path / "log", 1, ranks=2)
    started = time.monotonic()
    assert wait(backend, backend.start(pair)) == 7
    assert time.monotonic() - started < 20


def test_what_can_never_be_placed_is_refused_at_once(backend: Backend, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="E413"):
        backend.start(ProcessGroup((sys.executable, "-c", ""), tmp_path / "log", 1, gpus=1, ranks=64))
