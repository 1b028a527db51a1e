"""Pace of checkpoints where writing is slow. Shared by trainings and by the simulator."""

MOST_SHARE = 0.05
"""Most of a training's time that checkpoints take, where one takes `SLOW_SECONDS` or longer."""
SLOW_SECONDS = 1.0


def least_pause(write: float) -> float:
    """Least seconds of work between two checkpoints that take `write` seconds; 0 where that is quick."""
    return write * (1 / MOST_SHARE - 1) if write >= SLOW_SECONDS else 0.0
