"""The worker: one rank of one gang, started by command line and environment, never by a pickle.

`python -m p2p_dist.worker --study-dir runs/quickstart --stages ID[,ID...]` reads each stage's `spec.json`, does what is
not done, in numbered steps, and leaves the results in the stages' folders. Its unit is a cohort: all train stages it is
given share one base. With `--serve` in place of `--stages` it stays and takes such jobs one after the other
(`p2p_dist.worker.job_loop`). Exit codes are those of `p2p_dist.errors.Exit`.
"""

import argparse
import ctypes
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from p2p_dist.errors import Exit, UserError
from p2p_dist.results.rundir import RunDir
from p2p_dist.worker.build_rows import build_stage
from p2p_dist.worker.job_loop import serve

if TYPE_CHECKING:
    from p2p_dist.worker.model_job import Layout


class Worker:
    """Carries out jobs, one or many, and keeps what they share."""

    def __init__(self) -> None:
        self._base_cache: Any = None

    def run(self, arguments: Sequence[str]) -> int:
        """One job. Returns an exit code."""
        options = _options(arguments)
        folder = RunDir(options.study_dir)
        try:
            # 1. Read what to do, and leave out what is done.
            found = [folder.find(id_) for id_ in options.stages.split(",")]
            stages = [stage_dir.read_stage() for stage_dir in found if not stage_dir.is_done()]
            # 2. Data stages and edits need no model, and one rank.
            main_rank = os.environ.get("RANK", "0") == "0"
            for stage in stages:
                if stage.kind in ("data", "edit") and main_rank:
                    for warning in build_stage(folder, stage):
                        print(f"warning: {warning}", file=sys.stderr)
            # 3. Scores of one base; torch is imported only now.
            scores = [stage for stage in stages if stage.kind == "score"]
            if scores and main_rank:
                from p2p_dist.worker.score import run_score_job

                return run_score_job(folder, scores, self.base_cache())
            # 4. Train stages and evaluations share one base.
            rest = [stage for stage in stages if stage.kind in ("train", "eval")]
            if rest:
                from p2p_dist.worker.model_job import run_model_job

                return run_model_job(folder, rest, _layout(options), self.base_cache())
        except UserError as error:
            print(error, file=sys.stderr)
            return error.exit_code
        return Exit.OK

    def base_cache(self) -> Any:
        """Where the base is kept; made, with torch, when it is first needed."""
        if self._base_cache is None:
            from p2p_dist.modeling.base_cache import BaseCache

            self._base_cache = BaseCache()
        return self._base_cache

    def is_sound(self) -> bool:
        """Whether another job may follow in this process."""
        return self._base_cache is None or bool(self._base_cache.look_over())


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the stages of one job, or with `--serve` of many. Returns an exit code."""
    given = sys.argv[1:] if arguments is None else arguments
    serving = _options(given).serve
    _die_with_parent()
    worker = Worker()
    return serve(worker.run, worker.is_sound) if serving else worker.run(given)


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="p2p_dist.worker", description=__doc__)
    parser.add_argument("--study-dir", type=Path, required=True)
    parser.add_argument(
        "--serve",
        action="store_true",
        help="take jobs from standard input, one after the other (see p2p_dist.worker.job_loop)",
    )
    parser.add_argument("--stages", default="", help="ids, comma-separated, in order of execution")
    parser.add_argument(
        "--checkpoint-every", type=int, default=50, metavar="STEPS", help="training steps between two checkpoints"
    )
    parser.add_argument(
        "--zero",
        type=int,
        choices=range(4),
        default=0,
        help="ZeRO stage of DeepSpeed; 0: the whole base on every rank, no DeepSpeed",
    )
    parser.add_argument(
        "--offload",
        choices=("none", "optimizer", "all"),
        default="none",
        help="what DeepSpeed keeps in the host's memory",
    )
    parser.add_argument(
        "--hpz", type=int, default=1, metavar="RANKS", help="ZeRO-3: ranks that hold one copy of the base among them"
    )
    parser.add_argument(
        "--micro-batch",
        type=int,
        metavar="ROWS",
        help="rows of a run in one forward pass of a rank (default: its whole share)",
    )
    parser.add_argument(
        "--gradient-checkpointing",
        action="store_true",
        help="compute decoder layers again in the backward pass: less memory, more time",
    )
    parser.add_argument(
        "--allow-change",
        action="append",
        default=[],
        choices=("torch", "transformers", "dtype", "device"),
        help="resume although this part of the fingerprint differs",
    )
    options = parser.parse_args(arguments)
    if not (options.stages or options.serve):
        parser.error("--stages or --serve is wanted")
    return options


def _layout(options: argparse.Namespace) -> "Layout":
    from p2p_dist.worker.model_job import Layout

    return Layout(
        checkpoint_every=options.checkpoint_every,
        zero=options.zero,
        offload=options.offload,
        hpz=options.hpz,
        micro_batch=options.micro_batch,
        recompute=options.gradient_checkpointing,
        allow_change=tuple(options.allow_change),
    )


def _die_with_parent() -> None:
    """End with the process that started this one, so that a killed controller leaves no worker behind (Linux)."""
    parent = os.environ.get("P2P_DIST_PARENT")
    if parent is None or sys.platform != "linux":
        return
    pr_set_pdeathsig = 1
    ctypes.CDLL(None, use_errno=True).prctl(pr_set_pdeathsig, signal.SIGKILL)
    if os.getppid() != int(parent):
        sys.exit(Exit.REQUEUE)


def end(code: int) -> None:
    """Leave. A rank of a gang leaves without taking its threads down one by one: those of process groups may abort on
    the way, after all work is done."""
    if "RANK" in os.environ:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


if __name__ == "__main__":
    end(main())
