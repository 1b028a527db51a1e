"""Worker: one rank of one process group, started by command line and environment.

`python -m p2p_dist.worker --study-dir runs/quickstart --stages ID[,ID...]` reads the `spec.json` of each stage, does
what is missing and writes the results into the stages' folders. All train stages of one call share one base and are
trained as a cohort. With `--serve` in place of `--stages`, the process takes such jobs one after the other
(`p2p_dist.worker.job_loop`). Exit codes are those of `p2p_dist.errors.Exit`.
"""

import argparse
import ctypes
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from p2p_dist.config.stages import AnyStage, EvalStage, ScoreStage, TrainStage
from p2p_dist.errors import Exit, UserError
from p2p_dist.results.confined import storage_error
from p2p_dist.results.rundir import RunDir
from p2p_dist.worker.build_rows import RowsStage, build_stage
from p2p_dist.worker.job_loop import serve

if TYPE_CHECKING:
    from p2p_dist.modeling.base_cache import BaseCache
    from p2p_dist.worker.model_job import ExecutionOptions


class Worker:
    """Runs jobs in one process and keeps the base between them."""

    def __init__(self) -> None:
        self._base_cache: BaseCache | None = None

    def run(self, arguments: Sequence[str]) -> int:
        """Run one job and return its exit code."""
        options = _options(arguments)
        try:
            return self._run(RunDir(options.study_dir), options)
        except UserError as error:
            print(error, file=sys.stderr)
            return error.exit_code
        except RuntimeError as runtime_error:
            from p2p_dist.worker.device_faults import understood

            if (known := understood(runtime_error)) is None:
                raise
            traceback.print_exc()
            print(known, file=sys.stderr)
            return known.exit_code
        except OSError as os_error:
            if (refused := storage_error(os_error)) is None:
                raise
            print(refused, file=sys.stderr)
            return refused.exit_code

    def _run(self, folder: RunDir, options: argparse.Namespace) -> int:
        main_rank = os.environ.get("RANK", "0") == "0"
        # 1. Read the stages that are missing.
        stages = _missing(folder, options.stages.split(","))
        # 2. Build rows, on one rank and without a model.
        if main_rank:
            _build_rows(folder, stages)
        # 3. Score rows, on one rank. Torch is imported from here on.
        to_score = [stage for stage in stages if isinstance(stage, ScoreStage)]
        if to_score and main_rank:
            from p2p_dist.worker.device_faults import preflight
            from p2p_dist.worker.score import run_score_job

            preflight()
            return run_score_job(folder, to_score, self.base_cache(), not options.nondeterministic)
        # 4. Train and evaluate, on all ranks and one base.
        on_model = [stage for stage in stages if isinstance(stage, TrainStage | EvalStage)]
        if on_model:
            from p2p_dist.worker.model_job import run_model_job

            return run_model_job(folder, on_model, _execution_options(options), self.base_cache())
        return Exit.OK

    def base_cache(self) -> "BaseCache":
        """The base-model cache; created on first use, because it imports torch."""
        if self._base_cache is None:
            from p2p_dist.modeling.base_cache import BaseCache

            self._base_cache = BaseCache()
        return self._base_cache

    def is_sound(self) -> bool:
        """True if another job may follow in this process: the cached base is unchanged."""
        return self._base_cache is None or bool(self._base_cache.look_over())


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one job, or with `--serve` many. Returns an exit code."""
    given = sys.argv[1:] if arguments is None else arguments
    serving = _options(given).serve
    _die_with_parent()
    worker = Worker()
    return serve(worker.run, worker.is_sound) if serving else worker.run(given)


def _missing(folder: RunDir, ids: Sequence[str]) -> list[AnyStage]:
    """Stages of these ids without a result, in their order. Raises UserError E290 or E291."""
    targets = [folder.find(id_) for id_ in ids]
    return [target.parse_stage() for target in targets if not target.is_done()]


def _build_rows(folder: RunDir, stages: Sequence[AnyStage]) -> None:
    for stage in stages:
        if isinstance(stage, RowsStage):
            for warning in build_stage(folder, stage):
                print(f"warning: {warning}", file=sys.stderr)


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
        "--nondeterministic",
        action="store_true",
        help="take the fastest kernels: equal runs differ in their last bits",
    )
    parser.add_argument(
        "--cuda-graphs",
        action="store_true",
        help="repeat training passes of one form as CUDA graphs: shorter steps where the GPU waits for the host",
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
        parser.error("give --stages or --serve")
    return options


def _execution_options(options: argparse.Namespace) -> "ExecutionOptions":
    from p2p_dist.worker.model_job import ExecutionOptions

    return ExecutionOptions(
        checkpoint_every=options.checkpoint_every,
        zero=options.zero,
        offload=options.offload,
        hpz=options.hpz,
        micro_batch=options.micro_batch,
        recompute=options.gradient_checkpointing,
        allow_change=tuple(options.allow_change),
        deterministic=not options.nondeterministic,
        cuda_graphs=options.cuda_graphs,
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
    """Exit. A rank of a process group skips the shutdown of its threads, in which a group may abort after all work is
    done, and so does a worker on a faulty device, which may never end."""
    if "RANK" in os.environ or code == Exit.DEVICE:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


if __name__ == "__main__":
    end(main())
