"""A disk that fills up: a clear error, and what was saved before stays whole. On a real small file system."""

import subprocess
import sys
from pathlib import Path

import pytest

from p2p_dist.errors import Exit

MOUNT = (
    "unshare",
    "--map-root-user",
    "--mount",
    "sh",
    "-c",
    'mount -t tmpfs -o size="$1" none "$2" && shift 2 && exec "$@"',
    "sh",
)
SAVE_TWICE = """
import sys, torch
from pathlib import Path
from p2p_dist.errors import UserError
from p2p_dist.training import checkpoint
from p2p_dist.training.checkpoint import Counters, RunState

folder, size = Path(sys.argv[1]), int(sys.argv[2])
numbers = torch.arange(size, dtype=torch.float32)
try:
    if len(sys.argv) > 3:
        checkpoint.require_space(folder, size)
    for step in (10, 20):
        counters = Counters(step, step, step, 0.0, 0.5)
        checkpoint.save(folder, RunState(counters, numbers, numbers + 1, numbers + 2), {"stage": "x"})
except UserError as error:
    print(error)
    found = checkpoint.newest(folder, {"stage": "x"})
    left = sorted(path.name for path in folder.iterdir())
    print("newest", found.state and found.state.counters.step, found.skipped, left)
    sys.exit(error.exit_code)
"""


@pytest.fixture
def small_disk(tmp_path: Path) -> Path:
    if subprocess.run([*MOUNT, "1m", str(tmp_path), "true"], capture_output=True, check=False).returncode != 0:
        pytest.skip("this machine lets nobody mount a small file system of his own (unshare --map-root-user --mount)")
    return tmp_path


def on_small_disk(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [*MOUNT, "1m", str(folder), sys.executable, "-c", SAVE_TWICE, str(folder), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


def test_a_full_disk_leaves_the_checkpoint_before_it(small_disk: Path) -> None:
    done = on_small_disk(small_disk, "50000")
    assert done.returncode == Exit.INTEGRITY, done.stderr
    assert f"error[E314]: no space to save step 20: 0.6 MiB needed, 0.4 MiB free at {small_disk}" in done.stdout
    assert "newest 10 [] ['step_000010']" in done.stdout


def test_too_little_space_is_said_before_the_first_step(small_disk: Path) -> None:
    done = on_small_disk(small_disk, "50000", "check")
    assert done.returncode == Exit.INTEGRITY, done.stderr
    assert (
        "error[E313]: checkpoints need 1.7 MiB (2 are kept while the next is written), 1.0 MiB are free" in done.stdout
    )
    assert "newest None" in done.stdout
