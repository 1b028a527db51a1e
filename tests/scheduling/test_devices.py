"""The local backend gives every group GPUs of its own, and takes them back."""

import sys
import time
from pathlib import Path

import pytest

from p2p_dist.scheduling.backend import ProcessGroup
from p2p_dist.scheduling.backends.local import LocalBackend

SHOW = "import os, time; print(os.environ['CUDA_VISIBLE_DEVICES'], flush=True); time.sleep(float(os.environ['NAP']))"


@pytest.mark.parametrize(("visible", "expected"), [(None, ["0,1", "2", "3"]), ("4,5,6,GPU-7", ["4,5", "6", "GPU-7"])])
def test_every_gang_has_its_own_devices(
    visible: str | None, expected: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if visible is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    backend = LocalBackend(4, 4)
    logs = [tmp_path / f"log{at}" for at in range(4)]

    def start(at: int, ranks: int, nap: str) -> str:
        return backend.start(ProcessGroup((sys.executable, "-c", SHOW), logs[at], 1, 1, {"NAP": nap}, ranks))

    names = [start(0, 2, "60"), start(1, 1, "0"), start(2, 1, "60")]
    while backend.poll(names[1]) is None:
        time.sleep(0.05)
    start(3, 1, "60")
    while not all(log.exists() and log.read_text() for log in logs):
        time.sleep(0.05)
    shown = [log.read_text().strip() for log in logs]
    backend.close()
    assert shown[:3] == expected
    assert shown[3] in expected[1:], "the ended group's GPU, or the last free one"
    assert shown[3] != shown[2]
    assert (tmp_path / "log0.rank1").read_text().strip() == expected[0], (
        "ranks of a group see all its GPUs, as under torchrun"
    )
