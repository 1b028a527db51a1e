"""Starts in a row that brought a study no further. They are counted in its run folder, so that whoever starts it again
on exit code 75 (a Slurm script, a service manager) does so a few times and not for ever."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from p2p_dist.config.graph import Graph
from p2p_dist.config.identity import digest
from p2p_dist.errors import Exit, Problem, UserError
from p2p_dist.planning.policy import Start, may_start_again, next_start
from p2p_dist.results import atomic
from p2p_dist.results.rundir import RunDir


@contextmanager
def counted(folder: RunDir, graph: Graph, shared: bool) -> Iterator[None]:
    """One start of the study. A block that ends in order clears the count.

    Raises UserError E418 (exit code 1) together with the error of a block that wants to be started again (exit code
    75), when too many starts in a row have brought no stage of the graph further.
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
        what = f"{start.number} starts in a row have brought no job further, so this one does not ask for another"
        fix = "the logs of the jobs, of Ray and of Slurm, or a longer time limit; the same command tries again"
        raise UserError(
            *error.problems, Problem("E418", what, str(folder.path), fix), exit_code=Exit.SOME_FAILED
        ) from error
    record.unlink(missing_ok=True)


def _chain(shared: bool) -> str | None:
    """What this start follows: the earlier ones of its Slurm job, or those by hand. None for sharers by hand, whose
    starts side by side look like starts in a row."""
    if "SLURM_JOB_ID" in os.environ:
        return f"{os.environ['SLURM_JOB_ID']}-{os.environ.get('SLURM_PROCID', '0')}"
    return None if shared else "here"


def _reached(folder: RunDir, graph: Graph) -> str:
    """A digest of how far every stage is."""
    return digest({id_: folder.stage(stage).reached() for id_, stage in graph.stages.items()})


def _read(record: Path) -> Start | None:
    """The start before, if there was one; a count that is damaged starts anew, for nothing else rests on it."""
    try:
        found = json.loads(record.read_text())
        return Start(str(found["reached"]), int(found["number"]))
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None
