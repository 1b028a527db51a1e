"""One rank of a gang that is asked to stop while the main rank takes its time to write. Run by `test_ranks.py`.

`python -m tests.training.probe_stop OUT`: every rank leaves `OUT/left_RANK`, which says whether the main rank's file
was there when this rank had stopped.
"""

import sys
import time
from pathlib import Path

import torch

from p2p_dist.modeling.base import load_base
from p2p_dist.modeling.lora import Adapters
from p2p_dist.training.checkpoint import RunState
from p2p_dist.training.cohort import Observer, Stopped, train_cohort
from p2p_dist.training.engine import Execution
from p2p_dist.training.ranks import Ranks, join, leave
from p2p_dist.worker.__main__ import end
from tests.training.probe_ranks import RUN
from tests.training.test_cohort import IDENTITY

SLOWLY = 1.0


class Slow(Observer):
    """Asked to stop after the first step; the main rank alone writes, as on a file system under load."""

    def __init__(self, ranks: Ranks, out: Path):
        self.ranks, self.out = ranks, out

    def stop_requested(self) -> bool:
        return True

    def keep(self, run: int, state: RunState) -> None:
        if self.ranks.main:
            time.sleep(SLOWLY)
            (self.out / "kept").touch()


def main() -> None:
    torch.set_num_threads(1)
    out, ranks = Path(sys.argv[1]), join()
    base = load_base(IDENTITY, {}, "float32")
    try:
        train_cohort(base, Adapters(base.model, RUN.spec.lora, 1), [RUN], Slow(ranks, out), Execution(ranks))
    except Stopped:
        there = (out / "kept").exists()
        (out / f"left_{ranks.rank}").write_text("after it was kept" if there else "before")
    leave()
    end(0)


if __name__ == "__main__":
    main()
