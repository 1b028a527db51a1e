"""Many writers publish results while they are killed at random moments, and a reader checks everything that it can see.

Run by itself: `python -m tests.results.crash_writers FOLDER WRITERS KILLS`. Prints, as JSON, how many results were
acknowledged, how many of those are missing, and how many files were ever seen that are not whole results. A writer
acknowledges through a pipe, after `publish` has returned.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path
from random import Random

from p2p_dist.config.identity import stage_id
from p2p_dist.results import atomic, resultfile
from p2p_dist.results.resultfile import Result
from p2p_dist.results.rundir import StageDir
from tests.results.test_resultfile import body

PAUSE = 0.02
ID_LENGTH = 12


def write_forever(root: Path, seed: int, acknowledge: int) -> None:
    """Publish results of random ids, and say so for each; every third is one that somebody else may publish too."""
    random = Random(seed)
    while True:
        number = random.randrange(300) if random.random() < 0.3 else random.getrandbits(40)
        spec = {"scoring": "label_logits", "number": number}
        id_ = stage_id("eval", spec, {})
        atomic.publish(
            StageDir(root / id_, "eval").result, resultfile.seal(body(stage={"id": id_, "reads": {}, "spec": spec}))
        )
        os.write(acknowledge, id_.encode())
        time.sleep(random.random() * PAUSE)


def read_forever(root: Path, bad: int) -> None:
    """Look at every result again and again; count what is there and not whole."""
    while True:
        for path in list(root.iterdir()):
            if not isinstance(resultfile.read(StageDir(path, "eval")), Result | None):
                os.write(bad, b"x")


def storm(root: Path, writers: int, kills: int) -> dict[str, int]:
    """Kill `kills` writers, each at a random moment, and start another in its place."""
    random = Random(kills)
    acknowledged, said = os.pipe()
    bad, seen_bad = os.pipe()
    os.set_blocking(acknowledged, False)
    os.set_blocking(bad, False)
    reader = fork(read_forever, root, seen_bad)
    alive = [fork(write_forever, root, seed, said) for seed in range(writers)]
    heard = b""
    for kill in range(kills):
        time.sleep(random.random() * PAUSE)
        at = random.randrange(writers)
        end(alive[at])
        alive[at] = fork(write_forever, root, writers + kill, said)
        heard += drain(acknowledged)
    for pid in [*alive, reader]:
        end(pid)
    heard += drain(acknowledged)
    ids = {heard[at : at + ID_LENGTH].decode() for at in range(0, len(heard), ID_LENGTH)}
    found = {path.name: resultfile.read(StageDir(path, "eval")) for path in root.iterdir()}
    return {
        "acknowledged": len(ids),
        "lost": sum(not isinstance(found.get(id_), Result) for id_ in ids),
        "half_read": sum(not isinstance(result, Result | None) for result in found.values()) + len(drain(bad)),
        "leftovers": sum(1 for _ in root.rglob(".tmp-*")),
    }


def fork(work, *arguments) -> int:  # type: ignore[no-untyped-def]
    """Start `work` in a process of its own; it dies with this one's pipe."""
    if (pid := os.fork()) == 0:
        try:
            work(*arguments)
        finally:
            os._exit(1)
    return pid


def end(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def drain(handle: int) -> bytes:
    content = b""
    while True:
        try:
            part = os.read(handle, 1 << 16)
        except BlockingIOError:
            return content
        content += part


if __name__ == "__main__":
    where, count, killed = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    where.mkdir(parents=True)
    print(json.dumps(storm(where, count, killed)))
