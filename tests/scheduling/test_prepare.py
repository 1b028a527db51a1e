"""Preparation of a run folder by a controller before it starts anything."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from p2p_dist.errors import Exit
from p2p_dist.results import atomic
from p2p_dist.results.rundir import RunDir
from p2p_dist.scheduling import prepare, signals
from tests.cli.test_main import invoke


@pytest.mark.parametrize(("options", "kept"), [(["--share"], True), ([], False)], ids=["beside others", "alone"])
def test_half_written_files_are_cleared_by_who_is_alone(
    options: list[str],
    kept: bool,
    study_file: Callable[[], Path],
    tmp_path: Path,
    with_data: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A sharer that comes later must not remove what the worker of another one is writing: its rename would find
    nothing."""

    @contextmanager
    def at_once() -> Iterator[Callable[[], bool]]:
        yield lambda: True

    monkeypatch.setattr(signals, "stop_requests", at_once)
    half = tmp_path / "runs" / "tiny" / "data" / "0123456789ab" / ".tmp-590-26821f1d-cost.json"
    half.parent.mkdir(parents=True)
    half.touch()
    half_folder = half.with_name(".tmp-590-26821f1d-adapter")
    half_folder.mkdir()
    (half_folder / "adapter_model.safetensors").touch()
    code, _, said = invoke(
        "run", str(study_file()), "--runs-dir", str(tmp_path / "runs"), "--backend", "local", *options
    )
    assert (code, "E412" in said) == (Exit.REQUEUE, True), said
    assert (half.exists(), half_folder.exists()) == (kept, kept)


def test_private_folder_is_closed_to_others(tmp_path: Path) -> None:
    folder = RunDir(tmp_path / "study")
    folder.path.mkdir(mode=0o755)
    before = os.umask(0o022)
    try:
        prepare.close_to_others(folder)
        atomic.write_json(folder.resolved, {})
    finally:
        os.umask(before)
    assert folder.path.stat().st_mode & 0o777 == 0o700
    assert folder.resolved.stat().st_mode & 0o777 == 0o600
