"""Observer of a worker's training: writes metrics and checkpoints to the run folder, and checks for stop signals."""

import json
import math
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from types import FrameType
from typing import Any

import torch

from p2p_dist.planning.checkpoint_pace import least_pause
from p2p_dist.results import atomic
from p2p_dist.results.rundir import StageDir
from p2p_dist.training import checkpoint
from p2p_dist.training.checkpoint import RunState, counters_of
from p2p_dist.training.cohort import Observer
from p2p_dist.training.gpu_use import GpuUse
from p2p_dist.training.ranks import Ranks

ALONE = Ranks()
NO_GPU = GpuUse(None)


class StopFlag:
    """Set by SIGTERM or SIGUSR1; work stops at the next step or batch boundary, never inside one."""

    def __init__(self) -> None:
        self.requested = False
        for name in (signal.SIGTERM, signal.SIGUSR1):
            signal.signal(name, self._set)

    def _set(self, number: int, frame: FrameType | None) -> None:
        self.requested = True


class FolderObserver(Observer):
    """Writes `metrics.jsonl` and `checkpoints/` of every run of a cohort, from the main rank of the process group."""

    def __init__(
        self,
        targets: Sequence[StageDir],
        fingerprints: Sequence[dict[str, Any]],
        every: int,
        stop: StopFlag,
        ranks: Ranks = ALONE,
        allow_change: Sequence[str] = (),
        gpu: GpuUse = NO_GPU,
    ):
        self.targets, self.fingerprints, self.every, self.stop = targets, fingerprints, every, stop
        self.ranks, self.allow_change, self.gpu = ranks, allow_change, gpu
        self.changes: list[dict[str, Any]] = [{} for _ in targets]
        """Allowed differences from the fingerprint of the checkpoint that each run resumed from."""
        self.saved: dict[int, tuple[float, float]] = {}
        """Seconds that the last save of each run under way took, and when it ended."""

    def resume(self, run: int, size: int, device: torch.device, main_alone: bool = False) -> RunState | None:
        """The state to go on from, [size] numbers, if there is one; every rank takes the main rank's. `main_alone`: the
        numbers stay with the main rank, and others have none."""
        state = self._newest(run) if self.ranks.main else None
        if self.ranks.world == 1:
            return state
        counters = self.ranks.json_from_main(asdict(state.counters) if state else None)
        if counters is None:
            return None
        if main_alone:
            return state or RunState(counters_of(counters), torch.empty(0), torch.empty(0), torch.empty(0))
        tensors = [state.values, state.first_moment, state.second_moment] if state else [torch.empty(size)] * 3
        values, first, second = (self.ranks.from_main(tensor.to(device, copy=True)).cpu() for tensor in tensors)
        return RunState(counters_of(counters), values, first, second)

    def _newest(self, run: int) -> RunState | None:
        """Metrics of later steps are dropped, skipped checkpoints named."""
        target = self.targets[run]
        newest = checkpoint.newest(target.checkpoints, self.fingerprints[run], self.allow_change)
        for why in newest.skipped:
            print(f"warning[W302]: checkpoint not used, {target.checkpoints}/{why}", file=sys.stderr)
        self.changes[run] = newest.changes
        done = newest.state.counters.step if newest.state else 0
        if (problem := target.metrics_problem()) is not None:
            print(f"warning[{problem.code}]: {problem.what} at {problem.where}", file=sys.stderr)
        earlier = [line for line in target.all_metrics() if line.get("step", done + 1) <= done]
        atomic.write_lines(target.metrics, ((json.dumps(line, sort_keys=True) + "\n").encode() for line in earlier))
        if newest.state:
            print(f"resuming {target.path.name} after step {done}", flush=True)
        return newest.state

    def line(self, run: int, line: dict[str, Any]) -> None:
        if line["step"] == line["steps"]:
            self.saved.pop(run, None)  # its saves take no more time of the others
        if self.ranks.main:
            self.targets[run].append_metrics({**line, **self.gpu.to_dict()})

    def wants_state(self, run: int, step: int) -> bool:
        """Every `every` steps, but not so often that slow saves, those of the runs beside it included, take much of
        the time. Runs may be at different steps; all ranks decide alike."""
        if step % self.every:
            return False
        pause = least_pause(sum(seconds for seconds, _ in self.saved.values()))
        _, ended = self.saved.get(run, (0.0, -math.inf))
        return bool(self.ranks.json_from_main(time.monotonic() - ended >= pause))

    def keep(self, run: int, state: RunState) -> None:
        if self.ranks.main:
            begun = time.monotonic()
            checkpoint.save(self.targets[run].checkpoints, state, self.fingerprints[run])
            ended = time.monotonic()
            self.saved[run] = (ended - begun, ended)

    def stop_requested(self) -> bool:
        return self.stop.requested
