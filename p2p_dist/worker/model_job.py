"""The part of a worker that holds a model: train a cohort, then evaluate every adapter on it, in numbered steps."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from p2p_dist.config.graph import Stage
from p2p_dist.config.study import TrainSpec
from p2p_dist.errors import Exit
from p2p_dist.modeling.base_cache import BaseCache
from p2p_dist.modeling.lora import Adapters
from p2p_dist.results.rundir import RunDir
from p2p_dist.training.base_model import base_of
from p2p_dist.training.cohort import Stopped
from p2p_dist.training.engine import Execution, Offload
from p2p_dist.training.observer import StopFlag
from p2p_dist.training.ranks import Ranks, join, leave
from p2p_dist.worker.evaluate import evaluate, evaluator_of
from p2p_dist.worker.train import Checkpoints, train


@dataclass(frozen=True)
class Layout:
    """How the worker was told to carry its job out; none of it is identity."""

    checkpoint_every: int = 50
    zero: int = 0
    offload: Offload = "none"
    hpz: int = 1
    micro_batch: int | None = None
    allow_change: tuple[str, ...] = ()
    recompute: bool = False


def run_model_job(folder: RunDir, stages: Sequence[Stage], layout: Layout, base_cache: BaseCache) -> int:
    """Train what is to be trained and evaluate what is to be evaluated. All stages have the same base and LoRA shape,
    and all ranks of the gang are given the same.

    SIGTERM and SIGUSR1 end it at the next step or batch with exit code 75, training states kept.
    """
    stop = StopFlag()
    ranks = join()
    try:
        # A rank that came late may have seen less to do: the main rank's list counts.
        wanted = ranks.json_from_main([stage.id for stage in stages])
        return _run(folder, [folder.find(id_).read_stage() for id_ in wanted], layout, ranks, stop, base_cache)
    except Stopped:
        return Exit.REQUEUE
    finally:
        leave()


def _run(
    folder: RunDir, stages: Sequence[Stage], layout: Layout, ranks: Ranks, stop: StopFlag, base_cache: BaseCache
) -> int:
    # 1. The adapters of this job: those to train, and those that are only evaluated.
    to_train = [stage for stage in stages if stage.kind == "train"]
    to_evaluate = [stage for stage in stages if stage.kind == "eval"]
    ids = list(dict.fromkeys([stage.id for stage in to_train] + [stage.reads["adapter"] for stage in to_evaluate]))
    specs = {id_: folder.at("train", id_).read_stage() for id_ in ids}
    # 2. The base, frozen, with one stacked adapter for every run of the cohort.
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # nothing reads it
    first = specs[ids[0]]
    spec = TrainSpec.model_validate(first.spec["train"])
    base = base_of(folder, first, base_cache, keep=layout.zero == 0)  # ZeRO moves weights
    adapters = Adapters(base.model, spec.lora, max(1, len(to_train)))
    execution = Execution(
        ranks, layout.micro_batch, layout.zero, layout.offload, hpz=layout.hpz, recompute=layout.recompute
    )
    # 3. Train, and keep every adapter that came to its end.
    failed: set[str] = set()
    engine = None
    if to_train:
        failed, engine = train(
            folder, base, adapters, to_train, execution, Checkpoints(layout.checkpoint_every, layout.allow_change, stop)
        )
    # 4. Evaluate each adapter, alone, on the rows that ask for it.
    evaluator = evaluator_of(base, adapters, engine, spec, execution)
    for stage in to_evaluate:
        if stage.reads["adapter"] not in failed:
            evaluate(folder, evaluator, stage, stop)
    return Exit.SOME_FAILED if failed else Exit.OK
