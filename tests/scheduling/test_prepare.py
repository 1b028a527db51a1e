"""What a controller does to a run folder before it starts anything."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from p2p_dist.errors import Exit
from p2p_dist.scheduling import signals
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
    code, _, said = invoke(
        "run", str(study_file()), "--runs-dir", str(tmp_path / "runs"), "--backend", "local", *options
    )
    assert (code, "E412" in said) == (Exit.REQUEUE, True), said
    assert half.exists() == kept
