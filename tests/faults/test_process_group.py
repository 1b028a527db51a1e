"""Process groups of real ranks that lose one of them in the middle: the same command again, and the bytes are those of
a run left alone."""

import json
import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from p2p_dist.errors import Exit
from tests import in_process
from tests.process_group import LAYOUT, Job
from tests.studies import wait_for

LAYOUTS = {
    "zero2": LAYOUT,
    "plain": ("--micro-batch", "3"),
    "zero1": ("--zero", "1"),
    "zero3": ("--zero", "3", "--micro-batch", "4"),
}
OTHERS = pytest.mark.slow(
    "three groups for each layout; zero2 is the fast witness, and tests/training/test_ranks.py resumes all of them"
)


@pytest.fixture
def job(with_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Job]:
    return lambda: Job(tmp_path_factory.mktemp("group"))


def end(processes: list[subprocess.Popen[str]]) -> tuple[list[int], str]:
    """Exit codes and output of all ranks."""
    output = [process.communicate(timeout=480)[0] for process in processes]
    return [process.returncode for process in processes], "".join(output)


@pytest.mark.parametrize("layout", [name if name == "zero2" else pytest.param(name, marks=OTHERS) for name in LAYOUTS])
def test_a_group_that_loses_a_rank_is_resumed_to_the_bit(
    layout: str, job: Callable[[], Job], request: pytest.FixtureRequest
) -> None:
    if layout == "zero2":
        left_alone = request.getfixturevalue("left_alone")
    else:
        left_alone = job()
        assert end(left_alone.start(2, *LAYOUTS[layout]))[0] == [0, 0]
    disturbed = job()
    ranks = disturbed.start(2, *LAYOUTS[layout])
    wait_for(lambda: disturbed.steps() > 9)
    ranks[1].send_signal(signal.SIGKILL)
    codes, output = end(ranks)
    assert codes[1] == -signal.SIGKILL
    assert codes[0] not in (0, -signal.SIGKILL), f"the rank that is left must notice: {output}"
    assert not disturbed.train.adapter.exists()
    codes, output = end(disturbed.start(2, *LAYOUTS[layout]))
    assert codes == [0, 0], output
    assert "resuming" in output
    assert disturbed.outcome() == left_alone.outcome()


def test_resume_with_other_ranks_keeps_samples_and_is_marked(job: Callable[[], Job]) -> None:
    """One rank stops, two under ZeRO-3 go on and stop together when only one of them hears of it, and one rank ends:
    the same samples at every step, and the result names the layouts."""
    reference, changing = job(), job()
    assert reference.run_here() == Exit.OK
    with in_process.at_step(6, lambda folder: os.kill(os.getpid(), signal.SIGTERM)):
        assert changing.run_here() == Exit.REQUEUE
    ranks = changing.start(2, "--zero", "3")
    wait_for(lambda: changing.steps() > 8)
    os.kill(ranks[1].pid, signal.SIGUSR1)
    codes, output = end(ranks)
    assert codes == [Exit.REQUEUE, Exit.REQUEUE], output
    assert changing.newest_checkpoint() == changing.steps(), "both agreed to stop at the same step"
    assert changing.run_here() == Exit.OK
    assert_same_samples(reference, changing)
    assert reshaped(changing) == ["plain x 1", "zero3 x 2", "plain x 1"]


@pytest.mark.slow("five groups; from one rank to ZeRO-3 and back is the fast witness")
def test_resume_with_other_layouts_keeps_samples(job: Callable[[], Job]) -> None:
    """The same by processes, from ZeRO-1 to one rank to ZeRO-3."""
    reference, changing = job(), job()
    assert end(reference.start(1))[0] == [0]
    for world, options in ((2, ("--zero", "1")), (1, ())):
        ranks = changing.start(world, *options)
        before = changing.steps()
        wait_for(lambda before=before: changing.steps() > before + 5)
        for rank in ranks:
            rank.terminate()
        assert set(end(ranks)[0]) == {Exit.REQUEUE}
    codes, output = end(changing.start(2, "--zero", "3"))
    assert codes == [0, 0], output
    assert_same_samples(reference, changing)
    assert reshaped(changing) == ["zero1 x 2", "plain x 1", "zero3 x 2"]


@pytest.mark.slow("a group under ZeRO-2; one under ZeRO-3 is the fast witness")
def test_a_group_stops_together_on_request(job: Callable[[], Job]) -> None:
    """Only one rank hears of it; both agree to stop at the same step."""
    stopped = job()
    ranks = stopped.start(2, "--zero", "2")
    wait_for(lambda: stopped.steps() > 5)
    os.kill(ranks[1].pid, signal.SIGUSR1)
    codes, output = end(ranks)
    assert codes == [Exit.REQUEUE, Exit.REQUEUE], output
    assert stopped.newest_checkpoint() == stopped.steps()


def reshaped(job: Job) -> list[str]:
    """Layouts of a result, without the hardware."""
    return [layout.partition(",")[0] for layout in json.loads(job.outcome()[1])["reshaped"]]


def assert_same_samples(reference: Job, changing: Job) -> None:
    """Tokens of every step are equal, losses but for the order of sums."""
    curves = [
        {line["step"]: (line["loss"], line["tokens"]) for line in job.train.all_metrics()}
        for job in (reference, changing)
    ]
    assert curves[0].keys() == curves[1].keys()
    for step, (loss, tokens) in curves[0].items():
        assert curves[1][step][1] == tokens, "the same samples at every step"
        assert curves[1][step][0] == pytest.approx(loss, abs=1e-3)
    assert "reshaped" not in json.loads(reference.outcome()[1])
