"""Restart limit: stop requeueing a study whose restarts make no progress. The count is kept in the run folder, for the
Slurm script or service manager that restarts the study on exit code 75."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from p2p_dist.config.graph import Graph
from p2p_dist.config.identity import digest
from p2p_dist.errors import Exit, Problem, UserError
from p2p_dist.planning.policy import Start, may_start_again, next_start
from p2p_dist.results import atomic, confined, jsonfile
from p2p_dist.results.rundir import RunDir


@contextmanager
def count_restarts(folder: RunDir, graph: Graph, shared: bool) -> Iterator[None]:
    """Count one start of the study; a block that succeeds clears the count.

    Raises UserError E418 (exit code 1) beside the block's own error when that asks for a restart (exit code 75) and
    too many restarts in a row advanced no stage of the graph.
    """
    chain = _chain(shared)
    if chain is None:
        yield
        return
    record = folder.start(chain)
    start = next_start(_read(record), _reached(folder, graph))
    atomic.write_json(record, asdict(start))
    try:
        yield
    except UserError as error:
        if error.exit_code != Exit.REQUEUE or may_start_again(start, _reached(folder, graph)):
            raise
        what = f"The last {start.number} restarts made no progress; not requesting another"
        fix = "read the logs of the jobs, of Ray and of Slurm, or raise the time limit; run the same command to retry"
        raise UserError(
            *error.problems, Problem("E418", what, str(folder.path), fix), exit_code=Exit.SOME_FAILED
        ) from error
    confined.remove(record)


def _chain(shared: bool) -> str | None:
    """Name of the series of restarts: one per Slurm job, `here` for restarts by hand. None for sharers by hand, whose
    parallel starts would look like restarts."""
    if "SLURM_JOB_ID" in os.environ:
        return f"{os.environ['SLURM_JOB_ID']}-{os.environ.get('SLURM_PROCID', '0')}"
    return None if shared else "here"


def _reached(folder: RunDir, graph: Graph) -> str:
    """Digest of the progress of every stage."""
    return digest({id_: folder.stage(stage).reached() for id_, stage in graph.stages.items()})


def _read(record: Path) -> Start | None:
    """The previous start, or None where there is none or its record is damaged."""
    try:
        content = jsonfile.read_object(record)
        return Start(str(content["reached"]), int(content["number"]))
    except (FileNotFoundError, ValueError, KeyError, TypeError, OverflowError):
        return None
