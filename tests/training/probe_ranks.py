"""One rank of a small gang: trains the same run under several layouts and leaves what came of it. Run by
`test_ranks.py`.

`python -m tests.training.probe_ranks OUT LAYOUT...` where a layout is
`zero:micro_batch:offload:dtype:stop_after[:full]`; with `:gpu` in place of `:full` products have the form of GPUs, and
gradients are checkpointed.
"""

import json
import os
import sys
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from safetensors.torch import save_file

from bench.memory_model import SHAPES
from p2p_dist.config.study import LoraSpec
from p2p_dist.modeling.base import Base, empty_base, load_base
from p2p_dist.modeling.full_weights import FullWeights
from p2p_dist.modeling.guard import set_mode
from p2p_dist.modeling.lora import Adapters, LoraLinear
from p2p_dist.training.cohort import Stopped, train_cohort
from p2p_dist.training.engine import Execution
from p2p_dist.training.ranks import join, leave
from p2p_dist.training.train_run import Trained, TrainRun
from p2p_dist.training.zero import ZeroEngine
from p2p_dist.worker.__main__ import end
from tests.storages import Storages, Watch
from tests.training.test_checkpoint import Keeper
from tests.training.test_cohort import IDENTITY, rows, spec

# 37 rows in batches of 8: the last batch of an epoch has 5, which no two ranks share evenly.
RUN = TrainRun(spec(lora=LoraSpec(r=4, dropout=0.1), warmup_steps=2, max_grad_norm=0.1), 3, rows(37, 5))

FULL = replace(RUN, spec=spec(method="full", lora=LoraSpec(), learning_rate=1e-3, warmup_steps=2, max_grad_norm=0.1))

DEEP = SHAPES["qwen3-deep"].model_copy(update={"vocab": 256})
PARTS = "parts"
"""In place of a layout: measure what a rank holds while a base is cut."""


def train(layout: str) -> tuple[Trained, Trained | None, list[float]]:
    """The run from beginning to end, and once more with a stop and a resume in between."""
    zero, micro, offload, dtype, stop_after, *kind = layout.split(":")
    full, as_on_gpu = "full" in kind, "gpu" in kind
    trained = FULL if full else RUN
    execution = Execution(join(), int(micro) or None, int(zero), offload, gradient_checkpointing=as_on_gpu)  # type: ignore[arg-type]
    losses: list[float] = []

    def once(run: TrainRun, keeper: Keeper) -> Trained:
        base = load_base(IDENTITY, {}, dtype)
        if zero == "3" and not execution.ranks.main:
            base = empty(IDENTITY, dtype)
        keeper.line = lambda run, line: losses.append(line["loss"])  # type: ignore[method-assign]
        adapters = FullWeights(base.model, base.device) if full else Adapters(base.model, run.spec.lora, 1, base.device)
        with patch.object(LoraLinear, "forward", shared_product) if as_on_gpu else nullcontext():
            return train_cohort(base, adapters, [run], keeper, execution)[0]

    whole = once(trained, Keeper())
    curve = list(losses)
    if stop_after == "0":
        return whole, None, curve
    keeper = Keeper(int(stop_after))
    try:
        once(trained, keeper)
    except Stopped:
        return whole, once(replace(trained, resume=keeper.states[0, int(stop_after)]), Keeper()), curve
    raise AssertionError("it did not stop")


def shared_product(layer: LoraLinear, x: torch.Tensor) -> torch.Tensor:
    """`LoraLinear.forward` on a GPU."""
    return layer.same_input.answer(layer, x)


def empty(identity: Mapping[str, Any], dtype: str) -> Base:
    """The base of a rank that has nothing of its weights before they are cut."""
    base = empty_base(identity, {}, dtype)
    assert all(weight.is_meta for weight in base.model.parameters())
    set_mode(base.model, "packed")
    return replace(base, device=torch.device("cpu"))


def measure_parts(out: Path) -> None:
    """Most bytes that this rank allocated while ZeRO-3 cut a base, beside those of the whole and its largest weight."""
    ranks = join()
    identity = {"source": "random", "shape": DEEP.model_dump()}
    whole = load_base(identity, {}, "float32")
    sizes = [weight.numel() * 4 for weight in whole.model.parameters()]
    base = whole if ranks.main else empty(identity, "float32")
    adapters = Adapters(base.model, LoraSpec(r=1, target_modules=("q_proj",)), 1, base.device)  # as good as none
    made = Storages(suspicious=sum(sizes) // 2 + max(sizes))
    with Watch(made):
        ZeroEngine(base, adapters, RUN.spec, 1, torch.zeros(adapters.size), Execution(ranks, zero=3))
    record = {"peak": made.peak, "whole": sum(sizes), "largest": max(sizes)}
    (out / f"parts{ranks.rank}.json").write_text(json.dumps(record))


def main() -> None:
    torch.use_deterministic_algorithms(True)
    torch.set_num_threads(1)
    out = Path(sys.argv[1])
    for layout in sys.argv[2:]:
        if layout == PARTS:
            measure_parts(out)
            continue
        whole, resumed, curve = train(layout)
        if os.environ.get("RANK", "0") == "0":
            save_file(
                {"whole": whole.values, **({"resumed": resumed.values} if resumed else {})},
                out / f"{layout}.safetensors",
            )
            (out / f"{layout}.json").write_text(json.dumps({"losses": curve, "topologies": whole.topologies}))
    leave()
    end(0)


if __name__ == "__main__":
    main()
