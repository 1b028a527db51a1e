"""Stop requests: exit code 75 whatever runs when they come."""

import contextlib
import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest

from p2p_dist.errors import Exit, UserError, user_error
from p2p_dist.scheduling import signals
from tests.cli.test_main import invoke
from tests.conftest import TINY_STUDY
from tests.synthetic import make_study


def send_soon(number: int) -> None:
    threading.Timer(0.05, os.kill, (os.getpid(), number)).start()
    time.sleep(10)


@pytest.mark.parametrize("number", signals.NUMBERS)
def test_signal_interrupts_what_runs(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with pytest.raises(signals.Stopped), signals.raising():
        send_soon(number)
    assert signal.getsignal(number) is before


def test_second_signal_does_not_interrupt_the_end() -> None:
    ended: list[bool] = []

    def stop_twice() -> None:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        finally:
            os.kill(os.getpid(), signal.SIGTERM)
            ended.append(True)

    with pytest.raises(signals.Stopped), signals.raising():
        stop_twice()
    assert ended


def test_scheduler_is_told_and_not_interrupted() -> None:
    answers: list[bool] = []

    def schedule() -> None:
        with signals.stop_requests() as requested:
            answers.append(requested())
            os.kill(os.getpid(), signal.SIGUSR1)
            answers.append(requested())

    with pytest.raises(signals.Stopped), signals.raising():
        schedule()
    assert answers == [False, True]


def test_request_that_a_library_drops_reaches_the_scheduler() -> None:
    answers: list[bool] = []

    def drop_and_schedule() -> None:
        with contextlib.suppress(BaseException):
            os.kill(os.getpid(), signal.SIGUSR1)
        with signals.stop_requests() as requested:
            answers.append(requested())

    with pytest.raises(signals.Stopped), signals.raising():
        drop_and_schedule()
    assert answers == [True]
    with signals.stop_requests() as requested:
        assert not requested(), "answered"


def test_error_at_the_end_of_a_stopped_study_is_a_stop() -> None:
    """The scheduler has answered with E412, and the backend fails while it closes."""
    ended: list[bool] = []

    def schedule() -> None:
        try:
            with signals.stop_requests() as requested:
                os.kill(os.getpid(), signal.SIGTERM)
                assert requested()
                raise user_error("E412", "stopped", "run folder", "run the same command")
        finally:
            os.kill(os.getpid(), signal.SIGTERM)
            ended.append(True)
            raise RuntimeError("closing")

    with pytest.raises(signals.Stopped), signals.raising():
        schedule()
    assert ended, "a second signal did not interrupt the end"


def test_request_is_kept_by_inner_blocks_and_threads() -> None:
    answers: list[bool] = []

    def drop_and_schedule() -> None:
        with contextlib.suppress(BaseException):
            os.kill(os.getpid(), signal.SIGUSR1)
        for other in (signals.raising, signals.stop_requests):
            with contextlib.suppress(signals.Stopped), other():
                pass
        thread = threading.Thread(target=lambda: contextlib.ExitStack().enter_context(signals.raising()))
        thread.start()
        thread.join()
        with signals.stop_requests() as requested:
            answers.append(requested())

    with pytest.raises(signals.Stopped), signals.raising():
        drop_and_schedule()
    assert answers == [True]


def test_error_of_a_library_after_a_request_is_a_stop() -> None:
    """Ray's C code turns an exception of a signal handler into a SystemError."""

    def fail() -> None:
        with contextlib.suppress(BaseException):
            os.kill(os.getpid(), signal.SIGTERM)
        raise SystemError("returned a result with an exception set")

    with pytest.raises(signals.Stopped), signals.raising():
        fail()

    def refuse() -> None:
        with contextlib.suppress(BaseException):
            os.kill(os.getpid(), signal.SIGTERM)
        raise user_error("E418", "no further", "run folder", "raise the time limit")

    with pytest.raises(UserError, match="no further"), signals.raising():
        refuse()
    with pytest.raises(ValueError, match="own"), signals.raising():
        raise ValueError("own")
    with pytest.raises(signals.Stopped), signals.raising():
        raise SystemError("of a handler that Ray has set") from SystemExit(15)


def test_handler_of_a_library_is_replaced_and_its_exit_a_stop() -> None:
    """Ray sets a handler that exits with 15, which no script that requeues on 75 understands."""
    before = signal.getsignal(signal.SIGTERM)

    def init() -> None:
        signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(number))
        os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(signals.Stopped), signals.kept_handlers():
        init()
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize("moment", ["p2p_dist.scheduling.study.open_study", "p2p_dist.report.page.write_report"])
def test_run_is_stopped_while_it_reads_or_writes_the_report(
    moment: str, data_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exit code 75, which a script that requeues understands; a finished study stays finished."""
    monkeypatch.setenv("P2P_DIST_DATA", str(data_root))
    make_study(tmp_path, data_root, TINY_STUDY)
    monkeypatch.setattr(moment, lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    code, _, error = invoke("run", str(tmp_path / "study.yaml"), "--runs-dir", str(tmp_path / "runs"))
    assert code == Exit.REQUEUE
    assert "E412" in error
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
