"""What a worker does while it trains: metrics and checkpoints into the run's folder, and an eye on stop signals."""

import json
import signal
import sys
from collections.abc import Sequence
from types import FrameType
from typing import Any

from p2p_dist.results import atomic
from p2p_dist.results.rundir import StageDir
from p2p_dist.training import checkpoint
from p2p_dist.training.checkpoint import RunState
from p2p_dist.training.cohort import Observer


class StopFlag:
    """Set by SIGTERM or SIGUSR1; work stops at the next step or batch boundary, never inside one."""

    def __init__(self) -> None:
        self.requested = False
        for name in (signal.SIGTERM, signal.SIGUSR1):
            signal.signal(name, self._set)

    def _set(self, number: int, frame: FrameType | None) -> None:
        self.requested = True


class FolderObserver(Observer):
    """Writes `metrics.jsonl` and `checkpoints/` of every run of a cohort."""

    def __init__(self, targets: Sequence[StageDir], fingerprints: Sequence[dict[str, Any]], every: int, stop: StopFlag):
        self.targets, self.fingerprints, self.every, self.stop = targets, fingerprints, every, stop

    def resume(self, run: int) -> RunState | None:
        """The state to go on from, if there is one; metrics of later steps are dropped, skipped checkpoints named."""
        target = self.targets[run]
        found = checkpoint.newest(target.checkpoints, self.fingerprints[run])
        for why in found.skipped:
            print(f"warning[W302]: checkpoint not used, {target.checkpoints}/{why}", file=sys.stderr)
        done = found.state.counters.step if found.state else 0
        kept = [line for line in target.all_metrics() if line["step"] <= done]
        atomic.write_bytes(target.metrics, "".join(json.dumps(line, sort_keys=True) + "\n" for line in kept).encode())
        if found.state:
            print(f"resuming {target.path.name} after step {done}", flush=True)
        return found.state

    def line(self, run: int, line: dict[str, Any]) -> None:
        self.targets[run].append_metrics(line)

    def wants_state(self, run: int, step: int) -> bool:
        return step % self.every == 0

    def keep(self, run: int, state: RunState) -> None:
        checkpoint.save(self.targets[run].checkpoints, state, self.fingerprints[run])

    def stop_requested(self) -> bool:
        return self.stop.requested
