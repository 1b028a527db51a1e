"""One controller per study."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from p2p_dist.errors import Exit, UserError
from p2p_dist.scheduling import lease


def test_the_second_is_told_who_has_it(tmp_path: Path) -> None:
    path = tmp_path / "lease.json"
    with lease.hold(path):
        assert lease.owner(path) is not None
        with pytest.raises(UserError, match="E406") as caught, lease.hold(path):
            pass
        assert caught.value.exit_code == Exit.OWNED
    assert not path.exists()
    assert lease.owner(path) is None


def test_a_dead_owner_is_taken_over(tmp_path: Path) -> None:
    path = tmp_path / "lease.json"
    code = f"import os; from pathlib import Path; from p2p_dist.scheduling import lease; h = lease.hold(Path({str(path)!r})); h.__enter__(); os._exit(9)"
    subprocess.run([sys.executable, "-c", code], check=False)
    assert path.exists()
    assert lease.owner(path) is None
    with lease.hold(path):
        assert json.loads(path.read_text())["pid"]


def test_a_silent_owner_on_another_host_is_taken_over_after_a_while(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "STALE_SECONDS", 1.0)
    path = tmp_path / "lease.json"
    path.write_text(json.dumps({"host": "elsewhere", "pid": 1, "started": "1", "nonce": "x"}))
    with lease.hold(path):
        assert json.loads(path.read_text())["host"] != "elsewhere"
