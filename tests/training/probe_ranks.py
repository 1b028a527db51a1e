"""One rank of a small gang: trains the same run under several layouts and leaves what came of it. Run by
`test_ranks.py`.

`python -m tests.training.probe_ranks OUT LAYOUT...` where a layout is `zero:micro_batch:offload:dtype:stop_after`.
"""

import json
import os
import sys
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import save_file

from p2p_dist.config.study import LoraSpec
from p2p_dist.modeling.base import load_base
from p2p_dist.modeling.lora import Adapters
from p2p_dist.training.cohort import Stopped, train_cohort
from p2p_dist.training.engine import Execution
from p2p_dist.training.ranks import join, leave
from p2p_dist.training.train_run import Trained, TrainRun
from p2p_dist.worker.__main__ import end
from tests.training.test_checkpoint import Keeper
from tests.training.test_cohort import IDENTITY, rows, spec

# 37 rows in batches of 8: the last batch of an epoch has 5, which no two ranks share evenly.
RUN = TrainRun(spec(lora=LoraSpec(r=4, dropout=0.1), warmup_steps=2, max_grad_norm=0.1), 3, rows(37, 5))


def train(layout: str) -> tuple[Trained, Trained | None, list[float]]:
    """The run from beginning to end, and once more with a stop and a resume in between."""
    zero, micro, offload, dtype, stop_after = layout.split(":")
    execution = Execution(join(), int(micro) or None, int(zero), offload)  # type: ignore[arg-type]
    losses: list[float] = []

    def once(run: TrainRun, keeper: Keeper) -> Trained:
        base = load_base(IDENTITY, {}, dtype)
        keeper.line = lambda run, line: losses.append(line["loss"])  # type: ignore[method-assign]
        return train_cohort(base, Adapters(base.model, run.spec.lora, 1), [run], keeper, execution)[0]

    whole = once(RUN, Keeper())
    curve = list(losses)
    if stop_after == "0":
        return whole, None, curve
    keeper = Keeper(int(stop_after))
    try:
        once(RUN, keeper)
    except Stopped:
        return whole, once(replace(RUN, resume=keeper.states[0, int(stop_after)]), Keeper()), curve
    raise AssertionError("it did not stop")


def main() -> None:
    torch.use_deterministic_algorithms(True)
    torch.set_num_threads(1)
    out = Path(sys.argv[1])
    for layout in sys.argv[2:]:
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
