"""Pieces of work on the fake GPU, at the shapes of Qwen3 with a few of their layers."""

import time
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from bench.workload import rows
from p2p_dist.config.model import ShapeSpec, read_model
from p2p_dist.config.study import LoraSpec, TrainSpec
from p2p_dist.modeling import attention
from p2p_dist.modeling.base import Base
from p2p_dist.modeling.fused_norms import replace_modules, unproven
from p2p_dist.modeling.fused_rope import fuse_rope
from p2p_dist.modeling.fused_swiglu import fuse_swiglu
from p2p_dist.modeling.gradient_checkpointing import gradient_checkpointing
from p2p_dist.modeling.lora import Adapters
from p2p_dist.modeling.random_init import byte_tokenizer, config_of
from p2p_dist.training.cohort import Cohort, Observer
from p2p_dist.training.engine import Execution
from tests.cuda_fake import inference
from tests.cuda_fake.recorder import Recorder, counts, fake_gpu
from tests.cuda_fake.variants import run_of, trainable

MODELS = Path(__file__).parents[2] / "configs" / "models"
VOCABULARY = 256
"""Tokens of the rows: the byte tokenizer's."""


@dataclass(frozen=True)
class Case:
    """One piece of work. `tokens` 0: lengths like those of SST-2."""

    kind: str
    """train, or a name in `inference.WORK`."""
    size: str = "0.6b"
    layers: int = 2
    rows: int = 32
    tokens: int = 0
    runs: int = 1
    micro_batch: int | None = None
    recompute: bool = False
    dropout: float = 0.1
    generator: int = 0
    steps: int = 2
    variant: str = ""
    """Kind of training in `variants`; none for plain adapters."""
    adapted: int | None = None
    """Upper layers with adapters; None for all."""
    graphs: bool = False
    """Repeat passes as CUDA graphs."""

    @property
    def whole_shape(self) -> ShapeSpec:
        """The model's shape with all its layers."""
        return read_model(self.size if "-" in self.size else f"qwen3-{self.size}", MODELS).shape

    @property
    def shape(self) -> ShapeSpec:
        """The model's shape with the case's number of layers."""
        return self.whole_shape.model_copy(update={"layers": self.layers})

    @property
    def lora(self) -> LoraSpec:
        return LoraSpec(r=16, alpha=32.0, dropout=self.dropout, layers=self.adapted)


def measure(case: Case) -> dict[str, Any]:
    """What the case asked of the GPU, as JSON. Bytes begin with those of the base."""
    started = time.perf_counter()
    with fake_gpu() as recorder:
        base = _base(case.shape)
        record: dict[str, Any] = {"base": recorder.storages.held}
        if case.kind == "train":
            record |= _train(case, base, recorder)
        else:
            Adapters(base.model, case.lora, 1).no_dropout()
            recorder.reset()
            record |= {"static": recorder.storages.held, **inference.WORK[case.kind](case, base, recorder)}
            record |= counts(recorder)
    return {**asdict(case), **record, "seconds": round(time.perf_counter() - started, 1)}


def _base(shape: ShapeSpec) -> Base:
    """Random weights of a shape on the fake GPU in bfloat16."""
    attention.register()
    model_class, config = config_of(shape.model_dump())
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device("cuda", 0):
            model = model_class(config)
    finally:
        torch.set_default_dtype(default)
    attention.use_implementation(model, attention.NAME)
    norms = {name: norm for name, module in model.named_modules() if (norm := unproven(module)) is not None}
    replace_modules(model, norms)  # a fake tensor has no numbers that would prove them
    fuse_rope(model, proven=True)
    fuse_swiglu(model, proven=True)
    return Base(model.eval().requires_grad_(False), byte_tokenizer(), torch.device("cuda", 0), torch.bfloat16)


def _train(case: Case, base: Base, recorder: Recorder) -> dict[str, Any]:
    """Steps of a cohort; the last one is counted, peaks are of all."""
    spec = TrainSpec(num_train_epochs=1, global_batch=case.rows, lora=case.lora)
    adapters = trainable(case, base)
    batches = [rows(case.rows * case.steps, VOCABULARY, seed, case.tokens) for seed in range(case.runs)]
    runs = [run_of(case, base, adapters, spec, seed, batch) for seed, batch in enumerate(batches)]
    before = dict(recorder.synchronisations)
    execution = Execution(micro_batch=case.micro_batch, cuda_graphs=case.graphs)
    cohort = Cohort(base, adapters, runs, Observer(), execution)
    static, peak = recorder.storages.held, recorder.storages.held
    known: set[str] = set()
    new: list[list[str]] = []
    lower = nullcontext() if cohort.lower is None else cohort.lower.installed()
    with gradient_checkpointing(base.model, case.recompute), recorder.graphs(), lower:
        for _ in range(case.steps):
            recorder.reset()
            cohort.step()
            peak = max(peak, recorder.storages.peak)
            new.append(sorted({shape.split()[0] for shape in recorder.shapes - known}))
            known |= recorder.shapes
    recorder.storages.peak = peak
    states = [
        tensor for state in cohort.engine.optimizer.adamw for each in state.state.values() for tensor in each.values()
    ]
    return {
        **counts(recorder),
        "static": static,
        "held": recorder.storages.held,
        "new_shapes": new,
        "before": before,
        "kept_states": cohort.lower is not None and bool(cohort.lower.is_right),
        "repeated": cohort.engine.graphs.replayed if cohort.engine.graphs else 0,
        "devices": sorted({str(tensor.device) for tensor in (*states, adapters.flat_params, adapters.flat_grads)}),
        "tokens_at_once": max(sum(len(row.ids) for row in batch) for batch in batches),
    }


def deeper(case: Case) -> Case:
    """The case with one layer more: what a layer adds is the difference."""
    return replace(case, layers=case.layers + 1)
