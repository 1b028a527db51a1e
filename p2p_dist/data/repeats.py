"""Repeated training rows, so that a small set is trained on for as many optimizer steps as a large one."""

from collections.abc import Sequence
from dataclasses import replace

from p2p_dist.data.example import Row, stream


def repeated(rows: Sequence[Row], count: int, seed: int) -> tuple[list[Row], dict[str, str]]:
    """`count` rows, every row as often as any other or once more, and the source id of every copy by its id.

    The rows that occur once more are drawn by seed. `rows` may not be empty; no row is left out when `count` is
    smaller.
    """
    full, rest = divmod(max(count, len(rows)), len(rows))
    once_more = stream(seed, "repeat").sample(sorted(row.id for row in rows), rest)
    extra = set(once_more)
    copies = {f"{row.id}/{number}": row for row in rows for number in range(1, full + (1 if row.id in extra else 0))}
    made = [*rows, *(replace(row, id=id_) for id_, row in copies.items())]
    return made, {id_: row.id for id_, row in copies.items()}
