"""Train and eval stages of one job, on one base: train a cohort, then evaluate its adapters."""

from collections.abc import Sequence
from dataclasses import dataclass

from p2p_dist.config.stages import EvalStage, TrainStage
from p2p_dist.errors import Exit
from p2p_dist.modeling.base_cache import BaseCache
from p2p_dist.modeling.full_weights import FullWeights, Trainable
from p2p_dist.modeling.image_guard import require_no_tower
from p2p_dist.modeling.lora import Adapters
from p2p_dist.modeling.lora_targets import unadapted_weights
from p2p_dist.results.rundir import RunDir
from p2p_dist.training.base_model import base_of, base_to_shard
from p2p_dist.training.cohort import Stopped
from p2p_dist.training.engine import Execution, Offload
from p2p_dist.training.observer import StopFlag
from p2p_dist.training.peft_reload import require_same_in_peft
from p2p_dist.training.ranks import Ranks, join, leave
from p2p_dist.training.reproducible import set_deterministic
from p2p_dist.worker.device_faults import preflight
from p2p_dist.worker.evaluate import evaluate
from p2p_dist.worker.evaluator import evaluator_of
from p2p_dist.worker.train import Checkpoints, train


@dataclass(frozen=True)
class ExecutionOptions:
    """Options of the command line for how a job is executed; no part of any id."""

    checkpoint_every: int = 50
    zero: int = 0
    offload: Offload = "none"
    hpz: int = 1
    micro_batch: int | None = None
    allow_change: tuple[str, ...] = ()
    recompute: bool = False
    deterministic: bool = True
    cuda_graphs: bool = False

    def execution(self, ranks: Ranks) -> Execution:
        """Layout of the training over the ranks."""
        return Execution(
            ranks,
            self.micro_batch,
            self.zero,
            self.offload,
            hpz=self.hpz,
            gradient_checkpointing=self.recompute,
            deterministic=self.deterministic,
            cuda_graphs=self.cuda_graphs,
        )


def run_model_job(
    folder: RunDir, stages: Sequence[TrainStage | EvalStage], options: ExecutionOptions, base_cache: BaseCache
) -> int:
    """Train and evaluate, and return an exit code. All stages have the same base and LoRA shape, and all ranks are
    given the same stages.

    SIGTERM and SIGUSR1 end the job at the next step or batch with exit code 75; checkpoints are kept.
    """
    stop = StopFlag()
    preflight()  # the other ranks would wait for one that cannot answer
    ranks = join()
    try:
        return _run(folder, _stages_of_main_rank(folder, stages, ranks), options, ranks, stop, base_cache)
    except Stopped:
        return Exit.REQUEUE
    finally:
        leave()


def _stages_of_main_rank(
    folder: RunDir, stages: Sequence[TrainStage | EvalStage], ranks: Ranks
) -> list[TrainStage | EvalStage]:
    """Stages that the main rank found missing. A rank that read the folder later may have found fewer."""
    parsed = {stage.id: stage for stage in stages}
    missing: list[TrainStage | EvalStage] = []
    for id_ in ranks.json_from_main(list(parsed)):
        stage = parsed.get(id_) or folder.find(id_).parse_stage()
        assert isinstance(stage, TrainStage | EvalStage)
        missing.append(stage)
    return missing


def _run(
    folder: RunDir,
    stages: Sequence[TrainStage | EvalStage],
    options: ExecutionOptions,
    ranks: Ranks,
    stop: StopFlag,
    base_cache: BaseCache,
) -> int:
    # 1. List the trainings to run and, for each evaluation, the training that made its adapter.
    to_train = [stage for stage in stages if isinstance(stage, TrainStage)]
    to_evaluate = [stage for stage in stages if isinstance(stage, EvalStage)]
    trainings = _trainings(folder, to_train, to_evaluate)
    # 2. Load the base, with one stacked adapter for every run of the cohort unless all weights are trained. PEFT must
    # read it as it is trained.
    set_deterministic(options.deterministic)
    first = next(iter(trainings.values()))
    full = first.train.is_full
    sharded = options.zero == 3 and first.train.quantization is None
    base = (
        base_to_shard(folder, first, ranks)
        if sharded
        else base_of(folder, first, base_cache, keep=options.zero == 0 and not full)
    )  # ZeRO moves weights
    if options.zero == 3 or full:
        require_no_tower(base.model, full)
    if to_train and not full and first.train.quantization is None and (ranks.main or not sharded):
        require_same_in_peft(base, first.train.lora, first.model)
    adapters: Trainable
    if full:
        adapters = FullWeights(base.model, base.device)
    else:
        adapters = Adapters(base.model, first.train.lora, max(1, len(to_train)), base.device)
    if to_train and not full and ranks.main and (weights := unadapted_weights(base.model)):
        print(f"no adapter on {', '.join(weights)}: not linear layers", flush=True)
    execution = options.execution(ranks)
    # 3. Train, and keep every adapter that did not diverge.
    diverged: set[str] = set()
    engine = None
    if to_train:
        checkpoints = Checkpoints(options.checkpoint_every, options.allow_change, stop)
        diverged, engine = train(folder, base, adapters, to_train, execution, checkpoints)
    # 4. Evaluate the adapters one by one.
    evaluator = evaluator_of(base, adapters, engine, first.train, execution)
    for stage in to_evaluate:
        if stage.reads.adapter not in diverged:
            evaluate(folder, evaluator, stage, trainings[stage.reads.adapter], stop)
    return Exit.SOME_FAILED if diverged else Exit.OK


def _trainings(
    folder: RunDir, to_train: Sequence[TrainStage], to_evaluate: Sequence[EvalStage]
) -> dict[str, TrainStage]:
    """Trainings by id: those to run, then those whose adapters are only evaluated."""
    trainings = {stage.id: stage for stage in to_train}
    for stage in to_evaluate:
        id_ = stage.reads.adapter
        trainings[id_] = trainings.get(id_) or folder.train_stage(id_)
    return trainings
