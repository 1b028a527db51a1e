"""The memory model of the planner against measured peaks, on random weights of a grid of small shapes.

On a CPU every allocation and release of torch's allocator during one training step is recorded by the profiler; on a
GPU `torch.cuda.max_memory_allocated` is read. The runtime's own share is outside both. The figure is the ratio planned
/ measured that is furthest from 1. With `--fake-gpu` the peaks are those of trainings on a fake GPU
(`tests/cuda_fake`), at the shapes of Qwen3.
"""

import argparse
import gc
import sys
from collections.abc import Sequence
from itertools import product
from typing import TYPE_CHECKING

import torch
from torch._C._profiler import _EventType
from torch.profiler import ProfilerActivity, profile
from torch.profiler._utils import traverse_dfs

from bench import common
from bench.workload import load
from p2p_dist.config.model import ShapeSpec, read_model
from p2p_dist.config.study import LoraSpec, TrainSpec
from p2p_dist.modeling.base import Base, load_base
from p2p_dist.modeling.full_weights import FullWeights, Trainable
from p2p_dist.modeling.gradient_checkpointing import gradient_checkpointing
from p2p_dist.modeling.lora import Adapters
from p2p_dist.modeling.tokenization import Encoded
from p2p_dist.planning.memory import GIB, Split, Work, estimate
from p2p_dist.scheduling.study import configs_dir
from p2p_dist.training.cohort import train_cohort
from p2p_dist.training.train_run import TrainRun
from tests.cuda_fake import peaks
from tests.cuda_fake.process import fake_gpu_process

if TYPE_CHECKING:
    from tests.cuda_fake.cases import Case

SHAPES = {
    "qwen3": ShapeSpec(
        architecture="qwen3",
        layers=4,
        hidden=256,
        intermediate=768,
        heads=4,
        kv_heads=2,
        head_dim=64,
        vocab=4096,
        tied_embeddings=True,
    ),
    "qwen3-deep": ShapeSpec(
        architecture="qwen3", layers=12, hidden=128, intermediate=384, heads=4, kv_heads=2, head_dim=32, vocab=1024
    ),
    "llama": ShapeSpec(
        architecture="llama", layers=6, hidden=192, intermediate=512, heads=3, kv_heads=3, head_dim=64, vocab=8000
    ),
}
ANSWERS = 2
WITHIN = {"cpu": 0.05, "cuda": 0.1}
"""Largest deviation of the plan; a GPU's allocator rounds, which the plan does not know."""


def rows_of(count: int, tokens: int, vocab: int) -> list[Encoded]:
    """Rows of `tokens` tokens that end in two label tokens."""
    return [Encoded(str(at), [(7 * at + k) % vocab for k in range(tokens)], [1] * ANSWERS) for at in range(count)]


def measure(base: Base, work: Work, before: int = 0) -> int:
    """Peak bytes of two training steps, the base included and the runtime not. `before` are bytes that were held on a
    GPU before the base was loaded."""
    spec = TrainSpec(
        num_train_epochs=1,
        global_batch=work.rows,
        dtype="float32" if work.bytes_per_weight == 4 else "bfloat16",
        method="full" if work.full else "lora",
        lora=work.lora,
    )
    runs = [TrainRun(spec, seed, rows_of(2 * work.rows, work.tokens, work.shape.vocab)) for seed in range(work.cohort)]
    if base.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        with gradient_checkpointing(base.model, work.recompute):
            train_cohort(base, _trained(base, work), runs)
        return int(torch.cuda.max_memory_allocated()) - before
    weights = sum(
        {tensor.data_ptr(): tensor.numel() * tensor.element_size() for tensor in base.model.parameters()}.values()
    )
    with (
        profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded,
        gradient_checkpointing(base.model, work.recompute),
    ):
        train_cohort(base, _trained(base, work), runs)
    peak = allocated_peak(recorded)
    # Weights that are all trained lie in a new buffer; the release of the old ones is no event of the block.
    return peak if work.full else weights + peak


def allocated_peak(recorded: profile) -> int:
    """Peak bytes of the memory that was allocated within a profiled block.

    Only releases of that memory count: the profiler also reports those of earlier memory whose address a former block
    had used, at the size that it had there.
    """
    tree = recorded.profiler.kineto_results.experimental_event_tree()
    events = [event for event in traverse_dfs(tree) if event.tag == _EventType.Allocation]
    sizes: dict[int, int] = {}
    held = peak = 0
    for event in sorted(events, key=lambda event: event.start_time_ns):
        address, size = event.extra_fields.ptr, event.extra_fields.alloc_size
        if size > 0:
            sizes[address] = size
            held += size
        else:
            held -= sizes.pop(address, 0)
        peak = max(peak, held)
    return peak


def _trained(base: Base, work: Work) -> Trainable:
    return FullWeights(base.model, base.device) if work.full else Adapters(base.model, work.lora, work.cohort)


def grid(
    shapes: dict[str, ShapeSpec], widths: tuple[int, ...], batches: tuple[tuple[int, int, int], ...]
) -> list[tuple[str, Work]]:
    """Every shape with every width, batch (cohort, rows, tokens) and choice of targets."""
    targets = ("all-linear", ("q_proj", "v_proj"))
    return [
        (name, Work(shape, LoraSpec(target_modules=chosen), width, cohort, rows, tokens, ANSWERS, mean_tokens=tokens))
        for (name, shape), width, (cohort, rows, tokens), chosen in product(shapes.items(), widths, batches, targets)
    ]


def on_fake_gpu(sizes: Sequence[str]) -> None:
    """Print a row of a table in Markdown for every case of the grid, in GiB."""
    worst = 0.0
    print("| model | rows × tokens | measured | planned | planned / measured |\n|---|---|---|---|---|")
    with fake_gpu_process() as measure_case:
        for case in (case for size in sizes for case in peaks.grid(size)):
            peak = peaks.peak_of(measure_case, case)
            ratio = peak.planned_peak / peak.peak
            worst = max(worst, abs(ratio - 1))
            sizes_ = f"{peak.peak / GIB:.2f} | {peak.planned_peak / GIB:.2f} | {ratio:.3f}"
            print(f"| {case.size} | {_described(case)} | {sizes_} |", flush=True)
    print(f"worst deviation {worst:.1%}")


def _described(case: "Case") -> str:
    options = {
        f", {case.runs} runs": case.runs > 1,
        f", in passes of {case.micro_batch}": case.micro_batch,
        ", checkpointing": case.recompute,
    }
    return f"{case.rows} × {case.tokens}" + "".join(words for words, used in options.items() if used)


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The options of this benchmark."""
    made = common.parser(__doc__ or "")
    made.add_argument(
        "--model", default="", help="as in a study, with random weights (random:NAME), in place of the small grid"
    )
    made.add_argument(
        "--fake-gpu", nargs="+", metavar="SIZE", default=[], help="sizes of Qwen3 on a fake GPU: 0.6b 4b 8b 14b"
    )
    return made.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    options = parse(argv)
    common.limit_threads(options.threads)
    if options.fake_gpu:
        on_fake_gpu(options.fake_gpu)
        return 0
    limit = WITHIN["cuda" if torch.cuda.is_available() or options.smoke else "cpu"]
    return common.show(options, [figure(cases(options), limit)], model=options.model or "small shapes")


def cases(options: argparse.Namespace) -> list[tuple[str, Work, float]]:
    """Name and work of every case, and the planned peak over the measured one."""
    if options.model:
        shape = read_model(options.model.removeprefix("random:"), configs_dir() / "models").shape
        work = grid({options.model: shape}, (2,), ((1, 32, 25), (4, 32, 25), (1, 32, 128)))
    else:
        work = grid(SHAPES, (4, 2), ((1, 8, 32), (3, 16, 64)))
    return [(name, case, _ratio(options.model, case)) for name, case in (work[:2] if options.smoke else work)]


def _ratio(model: str, work: Work) -> float:
    dtype = "float32" if work.bytes_per_weight == 4 else "bfloat16"
    identity = {"source": "random", "shape": work.shape.model_dump()}
    gc.collect()  # what is let go of while a peak is measured would count against it
    before = torch.cuda.memory_allocated() if torch.cuda.is_available() else 0
    base = load(model, dtype) if model else load_base(identity, {}, dtype)
    planned = estimate(work, Split(), "cuda" if base.device.type == "cuda" else "cpu")
    return (planned.total - planned.runtime) / measure(base, work, before)


def figure(found: Sequence[tuple[str, Work, float]], limit: float) -> common.Figure:
    """The ratio that is furthest from 1, which has to be within the limit of it."""
    ratios = {
        f"{name}, {work.bytes_per_weight} bytes, {work.cohort} x {work.rows} x {work.tokens}, "
        f"{'all layers' if work.lora.target_modules == 'all-linear' else 'q and v'}": round(ratio, 3)
        for name, work, ratio in found
    }
    worst = max(ratios.values(), key=lambda ratio: abs(ratio - 1))
    gate = common.Gate("largest deviation", abs(worst - 1), limit)
    return common.Figure("planned memory", "measured peaks", worst, 1 + limit, True, [gate], ratios)


if __name__ == "__main__":
    sys.exit(main())
