"""Workload of the benchmarks: a model, batches with the lengths of SST-2, and our training, held after every step."""

import copy
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from statistics import median
from typing import Any

import torch

from bench.common import Clock, Stepwise
from p2p_dist.config.model import resolve_model
from p2p_dist.config.study import LoraSpec, TrainSpec
from p2p_dist.modeling import attention
from p2p_dist.modeling.base import Base, fuse_for_gpu, load_base
from p2p_dist.modeling.lora import Adapters
from p2p_dist.modeling.random_init import byte_tokenizer, config_of
from p2p_dist.modeling.tokenization import Encoded
from p2p_dist.training.cohort import ALONE, Observer, train_cohort
from p2p_dist.training.engine import Execution
from p2p_dist.training.train_run import TrainRun

MODELS = Path(__file__).parents[1] / "configs" / "models"
DISPATCH = {
    "architecture": "qwen3",
    "layers": 28,
    "hidden": 64,
    "intermediate": 192,
    "heads": 4,
    "kv_heads": 2,
    "head_dim": 16,
    "vocab": 512,
}
"""As many layers as Qwen3-0.6B and next to no arithmetic in them: a step's time is that of its Python and its
dispatch."""
SMOKE = {**DISPATCH, "layers": 2}


def load(name: str, dtype: str) -> Base:
    """`dispatch`, `smoke`, or a model as studies name it. Random weights are drawn on the device, in the precision
    asked for."""
    identity, local = (
        ({"source": "random", "shape": {"dispatch": DISPATCH, "smoke": SMOKE}[name]}, {})
        if name in ("dispatch", "smoke")
        else _resolved(name)
    )
    if identity["source"] != "random":
        return load_base(identity, local, dtype)
    attention.register()
    device, precision = torch.device("cuda" if torch.cuda.is_available() else "cpu"), getattr(torch, dtype)
    model_class, config = config_of({"tied_embeddings": True, **identity["shape"]})
    default = torch.get_default_dtype()
    torch.set_default_dtype(precision)
    try:
        with torch.device(device):
            torch.manual_seed(0)
            model = model_class(config)
    finally:
        torch.set_default_dtype(default)
    model.set_attn_implementation(attention.NAME)
    if device.type == "cuda":
        fuse_for_gpu(model)
    return Base(model.eval().requires_grad_(False), byte_tokenizer(), device, precision)


def _resolved(name: str) -> tuple[Any, Any]:
    model = resolve_model(name, MODELS)
    return model.identity, model.local


def another(base: Base) -> Base:
    """The same base once more: modules of its own, so that adapters can be put in, and the same frozen weights in
    memory."""
    shared = {id(tensor): tensor for tensor in base.model.parameters()}
    return Base(copy.deepcopy(base.model, shared), base.tokenizer, base.device, base.dtype)


def rows(count: int, vocab: int, seed: int, exactly: int = 0) -> list[Encoded]:
    """Random rows with one label token each. Lengths are like those of SST-2 in a template of 12 tokens (mean 26, at
    most 72): 12 + a log-normal number between 2 and 60 (median 12, sigma 0.6); or all `exactly` so long."""
    random = Random(f"{seed}:rows")
    lengths = [exactly or 12 + min(60, max(2, round(random.lognormvariate(2.4849, 0.6)))) for _ in range(count)]
    return [
        Encoded(str(at), [random.randrange(vocab) for _ in range(n)], [random.randrange(2)])
        for at, n in enumerate(lengths)
    ]


def padding(batch: Sequence[Encoded]) -> float:
    """Tokens of the batch padded to its longest row, divided by the real ones."""
    return len(batch) * max(len(row.ids) for row in batch) / sum(len(row.ids) for row in batch)


def typical_batch(size: int, vocab: int, seed: int = 0, length: int = 0) -> list[Encoded]:
    """Of 101 batches the one with the median share of padding."""
    batches = [rows(size, vocab, 1000 * seed + at, length) for at in range(101)]
    middle = median(padding(batch) for batch in batches)
    return next(batch for batch in batches if padding(batch) == middle)


def rows_of_run(size: int, vocab: int, seed: int, length: int, batches: int) -> list[Encoded]:
    """The rows of a run: one typical batch, or as many rows as so many batches have, which change in each epoch."""
    return typical_batch(size, vocab, seed, length) if batches == 1 else rows(batches * size, vocab, seed, length)


def vocabulary(base: Base) -> int:
    return int(base.model.config.vocab_size)


def settings(steps: int, batch: int, dropout: float = 0.0, batches: int = 1) -> TrainSpec:
    """LoRA of rank 16 on all linear layers. One epoch is so many batches: with one, every step trains on the same rows
    in another order."""
    lora = LoraSpec(r=16, alpha=32.0, dropout=dropout)
    return TrainSpec(learning_rate=1e-3, num_train_epochs=-(-steps // batches), global_batch=batch, lora=lora)


def different_runs(
    base: Base, numbers: Sequence[int], steps: int, batch: int, length: int = 0, batches: int = 1
) -> list[TrainRun]:
    """Runs that share nothing but the base: run k has its own rows, seed and learning rate, whichever others there
    are."""
    spec = settings(steps, batch, batches=batches)
    rates = [spec.learning_rate / (k + 1) for k in numbers]
    vocab = vocabulary(base)
    return [
        TrainRun(spec.model_copy(update={"learning_rate": rate}), k, rows_of_run(batch, vocab, k, length, batches))
        for k, rate in zip(numbers, rates, strict=True)
    ]


@dataclass
class Side:
    """One side of a comparison: its training, and the loss of every step so far (tensors or numbers)."""

    training: Stepwise
    losses: list[Any]

    def curve(self) -> list[float]:
        return [float(loss) for loss in self.losses]


class Ticker(Observer):
    """Hands over after the step of the last run of a cohort."""

    def __init__(self, runs: int, tick: Callable[[], None], losses: list[Any]):
        self.runs, self.tick, self.losses = runs, tick, losses

    def line(self, run: int, line: dict[str, Any]) -> None:
        self.losses.append(line["loss"])
        if run == self.runs - 1:
            self.tick()


def ours(base: Base, runs: Sequence[TrainRun], execution: Execution = ALONE) -> Side:
    """Our training of a cohort: everything a study's worker does between loading and saving, without files."""
    losses: list[Any] = []

    def work(tick: Callable[[], None]) -> None:
        mine = another(base)
        train_cohort(
            mine, Adapters(mine.model, runs[0].spec.lora, len(runs)), runs, Ticker(len(runs), tick, losses), execution
        )

    return Side(Stepwise(work), losses)


def start_values(base: Base, run: TrainRun) -> dict[str, torch.Tensor]:
    """Initial adapter of a run under PEFT's names, from which the other sides start too."""
    adapters = Adapters(another(base).model, run.spec.lora, 1)
    return adapters.state_dict(adapters.init_params(run.stream("init")))


def largest_difference(left: Sequence[float], right: Sequence[float]) -> float:
    """Between two loss curves, over the steps both have made."""
    return max(abs(a - b) for a, b in zip(left, right, strict=False))


def clock_of(device: torch.device) -> Clock | None:
    """CPU time for work on the CPU (None: the default); for a GPU the time at which it has done everything it was
    given."""
    if device.type == "cpu":
        return None

    def synchronised() -> float:
        torch.cuda.synchronize()
        return time.perf_counter()

    return synchronised
