"""The other sides: a bare PyTorch loop over PEFT, Hugging Face's Trainer and TRL's SFTTrainer, set up to be as fast as
they can be.

All train PEFT's LoRA from the same start values on the same batches in the same order. What only costs time is off:
progress bars, logging, saving, gradient checkpointing, the filter for NaN losses.
"""

import copy
import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from peft import LoraConfig, get_peft_model, set_peft_model_state_dict
from transformers import Trainer, TrainerCallback, TrainingArguments

from bench.common import Stepwise
from bench.workload import Side, another, start_values
from p2p_dist.modeling.base import Base
from p2p_dist.modeling.lora_targets import target_names
from p2p_dist.modeling.tokenization import Encoded
from p2p_dist.training.train_run import TrainRun

Example = dict[str, list[int]]


def peft_model(base: Base, run: TrainRun) -> Any:
    """A PEFT model over the base's weights with the run's start values."""
    base_copy = another(base)
    base_copy.model.set_attn_implementation("sdpa")
    lora, names = run.spec.lora, target_names(base_copy.model, run.spec.lora)
    targets = sorted({name if lora.layers else name.rpartition(".")[2] for name in names})
    config = LoraConfig(
        r=lora.r, lora_alpha=lora.alpha, lora_dropout=lora.dropout, target_modules=targets, task_type="CAUSAL_LM"
    )
    model = get_peft_model(base_copy.model, config)
    set_peft_model_state_dict(model, start_values(base, run))
    return model.train()


def examples(run: TrainRun) -> list[Example]:
    """The run's rows in the order in which it meets them, the way causal language models are trained elsewhere: the
    label token belongs to the row, and all other labels are -100."""
    return [_example(run.rows[at]) for batch in run.schedule.batches() for at in batch]


def _example(row: Encoded) -> Example:
    ids = [*row.ids, row.targets[-1]]
    return {"input_ids": ids, "labels": [-100] * (len(ids) - len(row.targets)) + row.targets}


def collator(pad_to: int | None) -> Callable[[Sequence[Example]], dict[str, torch.Tensor]]:
    """Pads to the longest row of the batch, or every row to `pad_to`."""

    def collate(batch: Sequence[Example]) -> dict[str, torch.Tensor]:
        width = pad_to or max(len(row["input_ids"]) for row in batch)
        filled = {"input_ids": 0, "labels": -100}
        padded = {
            key: torch.tensor([row[key] + [value] * (width - len(row[key])) for row in batch])
            for key, value in filled.items()
        }
        lengths = torch.tensor([len(row["input_ids"]) for row in batch])[:, None]
        return {**padded, "attention_mask": (torch.arange(width)[None] < lengths).long()}

    return collate


def bare_loop(base: Base, run: TrainRun) -> Side:
    """PEFT in a loop of ten lines, batches made beforehand: what is left when there is no engine at all."""
    losses: list[Any] = []

    def work(tick: Callable[[], None]) -> None:
        model = peft_model(base, run)
        numbers = [parameter for parameter in model.parameters() if parameter.requires_grad]
        adamw = torch.optim.AdamW(numbers, lr=run.spec.learning_rate, weight_decay=run.spec.weight_decay, fused=True)
        decay = torch.optim.lr_scheduler.LinearLR(adamw, 1.0, 0.0, run.schedule.steps)
        rows, size = examples(run), run.spec.global_batch
        batches = [
            {k: v.to(base.device) for k, v in collator(None)(rows[at : at + size]).items()}
            for at in range(0, len(rows), size)
        ]
        for batch in batches:
            loss = model(**batch, use_cache=False).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(numbers, run.spec.max_grad_norm or float("inf"))
            adamw.step()
            decay.step()
            adamw.zero_grad()
            losses.append(loss.detach())
            tick()

    return Side(Stepwise(work), losses)


def deepspeed_loop(base: Base, run: TrainRun, stage: int) -> Side:
    """PEFT under `deepspeed.initialize`, one rank. Raises ImportError where DeepSpeed is not installed."""
    deepspeed = _deepspeed()
    losses: list[Any] = []

    def work(tick: Callable[[], None]) -> None:
        # Stage 3 takes the weights apart, so this side has its own.
        model = peft_model(replace(base, model=copy.deepcopy(base.model)), run)
        numbers = [parameter for parameter in model.parameters() if parameter.requires_grad]
        adamw = torch.optim.AdamW(numbers, lr=run.spec.learning_rate, weight_decay=run.spec.weight_decay, fused=True)
        decay = torch.optim.lr_scheduler.LinearLR(adamw, 1.0, 0.0, run.schedule.steps)
        size = run.spec.global_batch
        config = {
            "train_micro_batch_size_per_gpu": size,
            "gradient_clipping": run.spec.max_grad_norm or 0.0,
            "bf16": {"enabled": base.dtype == torch.bfloat16},
            "zero_optimization": {"stage": stage},
            "zero_force_ds_cpu_optimizer": False,
            "steps_per_print": 2**31,
        }
        engine, *_ = deepspeed.initialize(model=model, model_parameters=numbers, optimizer=adamw, config=config)
        rows = examples(run)
        for at in range(0, len(rows), size):
            batch = {key: tensor.to(base.device) for key, tensor in collator(None)(rows[at : at + size]).items()}
            loss = engine(**batch, use_cache=False).loss
            engine.backward(loss)
            engine.step()
            decay.step()
            losses.append(loss.detach())
            tick()

    return Side(Stepwise(work), losses)


def _deepspeed() -> Any:
    """DeepSpeed in a process group of one, which it wants even there."""
    on_gpu = torch.cuda.is_available()
    if not on_gpu:
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    import deepspeed

    # It would compile an operator for inference at start-up, which takes most of a minute and which nothing here uses.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    if not torch.distributed.is_initialized():
        os.environ.update(RANK="0", LOCAL_RANK="0", WORLD_SIZE="1")
        torch.distributed.init_process_group(
            "nccl" if on_gpu else "gloo", store=torch.distributed.HashStore(), rank=0, world_size=1
        )
    return deepspeed


class _Hold(TrainerCallback):  # type: ignore[misc]
    def __init__(self, tick: Callable[[], None]):
        self.tick = tick

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.tick()


class _Recording:
    """Keeps the loss of every step as the tensor it is: reading the number would wait for the device."""

    losses: list[Any]

    def training_step(self, *args: Any, **kwargs: Any) -> Any:
        loss = super().training_step(*args, **kwargs)  # type: ignore[misc]
        self.losses.append(loss.detach())
        return loss


def _arguments(base: Base, run: TrainRun, folder: str) -> dict[str, Any]:
    spec = run.spec
    return {
        "output_dir": folder,
        "per_device_train_batch_size": spec.global_batch,
        "num_train_epochs": 1,
        "learning_rate": spec.learning_rate,
        "lr_scheduler_type": spec.lr_scheduler_type,
        "weight_decay": spec.weight_decay,
        "max_grad_norm": spec.max_grad_norm,
        "train_sampling_strategy": "sequential",
        "save_strategy": "no",
        "logging_strategy": "no",
        "logging_nan_inf_filter": False,
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": base.device.type == "cpu",
        "dataloader_pin_memory": base.device.type != "cpu",
        "remove_unused_columns": False,
        "bf16": False,
    }


def hf_trainer(base: Base, run: TrainRun, pad_to: int | None) -> Side:
    """Hugging Face's Trainer over PEFT. The precision is the base's; PEFT keeps adapters in fp32, as is its default."""
    losses: list[Any] = []

    class Recording(_Recording, Trainer):  # type: ignore[misc]
        pass

    def work(tick: Callable[[], None]) -> None:
        with tempfile.TemporaryDirectory() as folder:
            arguments = TrainingArguments(**_arguments(base, run, folder))
            trainer = Recording(
                peft_model(base, run), arguments, collator(pad_to), examples(run), callbacks=[_Hold(tick)]
            )
            trainer.losses = losses
            trainer.train()

    return Side(Stepwise(work), losses)


def trl_trainer(base: Base, run: TrainRun) -> Side:
    """TRL's SFTTrainer, whose loss computes no logits where there is no label. Raises ImportError where TRL is not
    installed.

    Its `padding_free` needs a variable-length attention kernel, and gradient checkpointing, on by default, is off.
    """
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    losses: list[Any] = []

    class Recording(_Recording, SFTTrainer):  # type: ignore[misc]
        pass

    def work(tick: Callable[[], None]) -> None:
        with tempfile.TemporaryDirectory() as folder:
            arguments = SFTConfig(
                **_arguments(base, run, folder), gradient_checkpointing=False, max_length=None, shuffle_dataset=False
            )
            tokenizer = base.tokenizer
            tokenizer.pad_token = tokenizer.pad_token or tokenizer.convert_ids_to_tokens(0)
            trainer = Recording(
                peft_model(base, run),
                arguments,
                train_dataset=Dataset.from_list(examples(run)),
                processing_class=tokenizer,
                callbacks=[_Hold(tick)],
            )
            trainer.losses = losses
            trainer.train()

    return Side(Stepwise(work), losses)
