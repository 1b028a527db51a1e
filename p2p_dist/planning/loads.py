"""Work of a simulated job: how long it takes, and what of it survives a kill."""

import math
from dataclasses import dataclass

from p2p_dist.planning.jobs import Job


@dataclass(frozen=True)
class Piece:
    """A resumable part of a job: `seconds` of work, checkpointed every `every` seconds and at its end. Both include the
    seconds that writing takes, `written` in all."""

    seconds: float
    every: float = math.inf
    written: float = 0.0


@dataclass(frozen=True)
class Load:
    """A job for the simulator: its slots, the seconds that every attempt takes to start, and its work."""

    job: Job
    width: int
    start: float
    pieces: tuple[Piece, ...]

    @property
    def work(self) -> float:
        return sum(piece.seconds for piece in self.pieces)

    @property
    def written(self) -> float:
        """Seconds of `work` that writing takes."""
        return sum(piece.written for piece in self.pieces)

    @property
    def seconds(self) -> float:
        """Seconds from start to end without failures."""
        return self.start + self.work

    def surviving(self, done: float, asked: bool = False) -> float:
        """Seconds of work that survive a kill after `done` seconds, or a stop that was asked for: it writes a
        checkpoint where the work has any."""
        saved = 0.0
        for piece in self.pieces:
            if done < saved + piece.seconds:
                if piece.every == math.inf:
                    return saved
                return done if asked else saved + piece.every * ((done - saved) // piece.every)
            saved += piece.seconds
        return saved
