"""Training on shards: DeepSpeed's ZeRO 1, 2 and 3, with offload and hpZ, behind the same interface as the plain engine.

DeepSpeed is given one trainable parameter, the flat adapter [P], so that its buckets, its partitions and our
checkpoints are simple. What it keeps is read and written un-sharded; its own checkpoint files (pickles) are never made.
"""

import logging
import math
import os
import warnings
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import distributed, nn
from torch.distributed import HashStore  # type: ignore[attr-defined]

from p2p_dist.config.study import TrainSpec
from p2p_dist.errors import user_error
from p2p_dist.modeling.base import Base
from p2p_dist.modeling.forward import PASSES, Sharded
from p2p_dist.modeling.lora import Adapters
from p2p_dist.modeling.packing import Batch
from p2p_dist.training.engine import Engine, Execution
from p2p_dist.training.objectives import cross_entropy
from p2p_dist.training.optimizer import adamw, learning_rate


class FlatModel(nn.Module):
    """The base and one flat adapter as one module: what DeepSpeed wraps. `flat` is [P] in the compute dtype."""

    def __init__(self, model: Any, adapters: Adapters, start: torch.Tensor):
        super().__init__()
        self.model, self.adapters = model, adapters
        self.flat = nn.Parameter(start.to(adapters.flat_params))

    def forward(self, name: str, *tensors: Any) -> torch.Tensor:
        """One of the passes of `modeling.forward`, by name."""
        self.adapters.use_tensor(self.flat)
        return PASSES[name](self.model, *tensors)


class ZeroEngine(Engine):
    """One run on all ranks of a process group, sharded as ZeRO's stage says."""

    lockstep = True

    def __init__(
        self, base: Base, adapters: Adapters, spec: TrainSpec, steps: int, start: torch.Tensor, execution: Execution
    ):
        require_sharding(adapters.runs, spec, execution)
        deepspeed = import_deepspeed()
        self.spec, self.steps, self.ranks = spec, steps, execution.ranks
        self.size, self.stage = adapters.size, execution.zero
        module = FlatModel(base.model, adapters, start)
        config = deepspeed_config(spec, execution, base.dtype, adapters.size)
        if execution.zero == 3:
            adapters.share_no_products()
            shard(deepspeed, module.model, config, execution)
        self.engine, *_ = deepspeed.initialize(
            model=module, model_parameters=[module.flat], optimizer=adamw(module.flat, spec), config=config
        )
        self.base = replace(base, model=Sharded(self.engine, base.model), weight_checksum=None)
        # The compute copy is rounded; the masters start from the exact numbers.
        self._write(self._masters(), start)

    def begin(self, micro_batches: int) -> None:
        """Nothing: DeepSpeed empties its own buffers."""

    def accumulate(self, runs: slice, batch: Batch, counts: torch.Tensor, last: bool) -> torch.Tensor:
        self.engine.set_gradient_accumulation_boundary(last)
        losses = cross_entropy(self.base, batch, counts)
        # DeepSpeed averages over ranks; the parts of a mean are to be summed.
        self.engine.backward(losses.sum() * self.ranks.world, scale_wrt_gas=False)
        return losses.detach()

    def finish(self, losses: torch.Tensor) -> torch.Tensor:
        return self.ranks.sum(losses)

    def step(self, run: int, done: int, loss: torch.Tensor) -> torch.Tensor:
        if not math.isfinite(float(loss)):
            return torch.full_like(loss, math.nan)
        for group in self.engine.optimizer.optimizer.param_groups:
            group["lr"] = learning_rate(self.spec, done, self.steps)
        self.engine.step()
        return torch.as_tensor(self.engine.get_global_grad_norm(), dtype=torch.float32).to(loss.device)

    def state(self, run: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        moments = self.engine.optimizer.optimizer.state[self._masters()]
        return self.values(run), self._read(moments["exp_avg"]), self._read(moments["exp_avg_sq"])

    def restore(self, run: int, done: int, first: torch.Tensor, second: torch.Tensor) -> None:
        masters = self._masters()
        moments = {"exp_avg": torch.zeros_like(masters), "exp_avg_sq": torch.zeros_like(masters)}
        for name, moment in (("exp_avg", first), ("exp_avg_sq", second)):
            self._write(moments[name], moment)
        self.engine.optimizer.optimizer.state[masters] = {"step": torch.tensor(float(done)), **moments}

    def values(self, run: int) -> torch.Tensor:
        return self._read(self._masters().detach())

    def close(self) -> None:
        if self.stage < 3:
            self.engine.destroy()

    def for_evaluation(self) -> Base:
        """The sharded base; all ranks must make the same passes. Only of ZeRO-3: below, the base is whole."""
        self.engine.eval()
        return self.base

    def load(self, values: torch.Tensor) -> None:
        """Compute with these numbers, [P], from now on (ZeRO-3, for evaluation)."""
        with import_deepspeed().zero.GatheredParameters([self.engine.module.flat], modifier_rank=0), torch.no_grad():
            if self.ranks.main:
                self.engine.module.flat.copy_(values)

    def _masters(self) -> torch.Tensor:
        """This rank's piece of the fp32 numbers; the pieces of all ranks, end to end, are the whole and some filler."""
        optimizer = self.engine.optimizer
        pieces = getattr(optimizer, "fp32_partitioned_groups_flat", None) or optimizer.single_partition_of_fp32_groups
        return pieces[0]

    def _read(self, piece: torch.Tensor) -> torch.Tensor:
        """The whole, [P], from the pieces of all ranks."""
        here = piece.to(self.base.device)
        pieces = [torch.empty_like(here) for _ in range(self.ranks.world)]
        distributed.all_gather(pieces, here)
        return torch.cat(pieces)[: self.size]

    def _write(self, piece: torch.Tensor, vector: torch.Tensor) -> None:
        """Take this rank's piece of the vector, [P]."""
        part = vector[self.ranks.rank * piece.numel() :][: piece.numel()]
        with torch.no_grad():
            piece[: part.numel()].copy_(part)


def require_sharding(runs: int, spec: TrainSpec, execution: Execution) -> None:
    """Raise UserError E284, E311 or E315 for a training that DeepSpeed cannot shard."""
    if runs != 1:
        raise user_error(
            "E311",
            f"DeepSpeed trains one run at a time, not a cohort of {runs}",
            "--cohort",
            "use --cohort 1, or --zero 0",
        )
    if spec.optimizer is not None:
        raise user_error(
            "E284", f"{spec.optimizer} is not sharded by DeepSpeed", "train.optimizer", "leave it out, or --zero 0"
        )
    if execution.zero == 3 and spec.quantization is not None:
        raise user_error(
            "E315",
            f"ZeRO-3 cannot cut a base in {spec.quantization} into pieces",
            "--zero 3",
            "use --zero 2, or set train.quantization=null",
        )


def shard(deepspeed: Any, model: nn.Module, config: Mapping[str, Any], execution: Execution) -> None:
    """Cut the weights of a model into the parts of all ranks, one weight at a time: a rank never holds more than its
    part and one whole weight on its device.

    The main rank's weights count, wherever they lie; another rank may have its own on the meta device. Buffers go to
    every rank's device whole.
    """
    device = torch.device(deepspeed.accelerator.get_accelerator().device_name(int(os.environ["LOCAL_RANK"])))
    _send_buffers(model, device)
    places: dict[int, list[tuple[nn.Module, str]]] = {}
    for module in model.modules():
        for name, weight in module._parameters.items():
            if weight is not None:
                places.setdefault(id(weight), []).append((module, name))
    first: Any = None
    for (module, name), *others in list(places.values()):
        weight = module._parameters[name]
        assert weight is not None
        if weight.is_meta:
            weight = nn.Parameter(torch.empty(weight.shape, dtype=weight.dtype, device=device), requires_grad=False)
            for other, same in ((module, name), *others):
                other._parameters[same] = weight
        if first is None:
            deepspeed.zero.Init(
                module=nn.ParameterList([weight]),
                config_dict_or_path=dict(config),
                remote_device="cpu" if execution.offload == "all" else None,
                pin_memory=torch.cuda.is_available(),
            )
            first = weight
        else:
            first.convert_to_zero_parameters(param_list=[weight])


def _send_buffers(model: nn.Module, device: torch.device) -> None:
    """Move buffers, and tensors that modules have as attributes, to the device of every rank, as the main rank has
    them."""
    for module in model.modules():
        for owner in (module._buffers, vars(module)):
            for name, tensor in [(name, each) for name, each in owner.items() if isinstance(each, torch.Tensor)]:
                here = torch.empty_like(tensor, device=device) if tensor.is_meta else tensor.to(device).contiguous()
                distributed.broadcast(here, src=0)
                owner[name] = here


def deepspeed_config(spec: TrainSpec, execution: Execution, dtype: torch.dtype, size: int) -> dict[str, Any]:
    """DeepSpeed's configuration for `size` trainable numbers: what our engine does itself (batches, accumulation,
    learning rate) is fixed to 1."""
    # Buckets are allocated whole; the defaults are made for full fine-tuning and would take gigabytes.
    zero: dict[str, Any] = {
        "stage": execution.zero,
        "reduce_bucket_size": size,
        "allgather_bucket_size": size,
        **_offload(execution),
    }
    if execution.zero == 3 and execution.hpz > 1:
        zero["zero_hpz_partition_size"] = execution.hpz
    return {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": spec.max_grad_norm or 0.0,
        "bf16": {"enabled": dtype == torch.bfloat16},
        "zero_optimization": zero,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 2**31,
    }


def _offload(execution: Execution) -> Mapping[str, Any]:
    if execution.offload == "none":
        return {}
    host = {"device": "cpu", "pin_memory": torch.cuda.is_available()}
    return (
        {"offload_optimizer": host}
        if execution.offload == "optimizer"
        else {"offload_optimizer": host, "offload_param": host}
    )


def import_deepspeed() -> Any:
    """DeepSpeed, ready for this process. Raises UserError E312 when it is not installed."""
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    # It compiles an operator for inference at start-up, which takes a compiler and most of a minute; nothing here uses
    # it.
    os.environ.setdefault("DS_SKIP_CUDA_CHECK", "1")
    warnings.filterwarnings("ignore", category=FutureWarning, module="torch.distributed")
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    try:
        import deepspeed
    except ImportError as error:
        raise user_error(
            "E312", "DeepSpeed is not installed", "--zero", "pip install 'p2p-dist[zero]', or --zero 0"
        ) from error
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    if not distributed.is_initialized():
        # A process group of one: DeepSpeed wants a process group and its variables all the same.
        os.environ.update(RANK="0", LOCAL_RANK="0", WORLD_SIZE="1")
        distributed.init_process_group(
            "nccl" if torch.cuda.is_available() else "gloo", store=HashStore(), rank=0, world_size=1
        )
    if torch.cuda.is_available():
        # It takes the device of this number; a rank may see its own device alone.
        os.environ["LOCAL_RANK"] = str(torch.cuda.current_device())
    return deepspeed
