"""Gangs of real ranks that lose one of them in the middle: the same command again, and the bytes are those of a run
left alone."""

import json
import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from p2p_dist.errors import Exit
from tests.e2e.test_study import _wait_for
from tests.process_group import Job

LAYOUTS = {
    "plain": ("--micro-batch", "3"),
    "zero1": ("--zero", "1"),
    "zero2": ("--zero", "2", "--micro-batch", "4", "--offload", "optimizer"),
    "zero3": ("--zero", "3", "--micro-batch", "4"),
}


@pytest.fixture
def job(with_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Job]:
    return lambda: Job(tmp_path_factory.mktemp("gang"))


def end(processes: list[subprocess.Popen[str]]) -> tuple[list[int], str]:
    said = [process.communicate(timeout=120)[0] for process in processes]
    return [process.returncode for process in processes], "".join(said)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_gang_that_loses_a_rank_is_resumed_to_the_bit(layout: str, job: Callable[[], Job]) -> None:
    left_alone, disturbed = job(), job()
    codes, said = end(left_alone.start(2, *LAYOUTS[layout]))
    assert codes == [0, 0], said
    ranks = disturbed.start(2, *LAYOUTS[layout])
    _wait_for(lambda: disturbed.steps() > 9, 120)
    ranks[1].send_signal(signal.SIGKILL)
    codes, said = end(ranks)
    assert codes[1] == -signal.SIGKILL
    assert codes[0] not in (0, -signal.SIGKILL), f"the rank that is left must notice: {said}"
    assert not disturbed.train.adapter.exists()
    codes, said = end(disturbed.start(2, *LAYOUTS[layout]))
    assert codes == [0, 0], said
    assert "resuming" in said
    assert disturbed.outcome() == left_alone.outcome()


def test_a_gang_stops_together_on_request(job: Callable[[], Job]) -> None:
    at = job()
    ranks = at.start(2, "--zero", "2")
    _wait_for(lambda: at.steps() > 5, 120)
    # Only one rank hears of it; both agree to stop at the same step.
    os.kill(ranks[1].pid, signal.SIGUSR1)
    codes, said = end(ranks)
    assert codes == [Exit.REQUEUE, Exit.REQUEUE], said
    kept = json.loads(next(iter(sorted(at.train.checkpoints.iterdir())[-1:])).joinpath("state.json").read_text())
    assert kept["step"] == at.steps()


def test_resume_with_other_ranks_keeps_samples_and_is_marked(job: Callable[[], Job]) -> None:
    """Other numbers of ranks go on with the same samples and are marked."""
    reference, changing = job(), job()
    assert end(reference.start(1))[0] == [0]
    for world, options in ((2, ("--zero", "1")), (1, ())):
        ranks = changing.start(world, *options)
        before = changing.steps()
        _wait_for(lambda before=before: changing.steps() > before + 5, 120)
        for rank in ranks:
            rank.terminate()
        assert set(end(ranks)[0]) == {Exit.REQUEUE}
    codes, said = end(changing.start(2, "--zero", "3"))
    assert codes == [0, 0], said
    curves = [
        {line["step"]: (line["loss"], line["tokens"]) for line in one.train.all_metrics()}
        for one in (reference, changing)
    ]
    assert curves[0].keys() == curves[1].keys()
    for step, (loss, tokens) in curves[0].items():
        assert curves[1][step][1] == tokens, "the same samples at every step"
        assert curves[1][step][0] == pytest.approx(loss, abs=1e-3)
    assert "reshaped" not in json.loads(reference.outcome()[1])
    assert json.loads(changing.outcome()[1])["reshaped"] == ["zero1 x 2", "plain x 1", "zero3 x 2"]
