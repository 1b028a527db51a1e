"""Held-out rows (`rows.dev`), which no model is trained on and none is judged on: ONION, AttDef and PSIM choose a
threshold on them, as their sources do on a dev set."""

from collections.abc import Callable, Mapping, Sequence

from p2p_dist.data.example import RawRow, whole_text

DEV = "dev"
"""Key of the split that holds the rows of a dev file."""

Take = Callable[[Sequence[RawRow], int | None, str], list[RawRow]]
"""Choice of so many rows for a purpose."""


def apart(
    splits: Mapping[str, Sequence[RawRow]], trusted: Sequence[RawRow], count: int | None, take: Take
) -> tuple[list[RawRow], list[RawRow], dict[str, int]]:
    """Held-out rows, training rows, and counts of rows that the run leaves out, by reason.

    No held-out row has the text of a training, trusted or test row. Raises UserError E205 where there are too few.
    """
    train = list(splits["train"])
    if count is None:
        return [], train, {}
    if DEV in splits:
        used = {whole_text(row) for name, rows in splits.items() if name != DEV for row in (*rows, *trusted)}
        return take([row for row in splits[DEV] if whole_text(row) not in used], count, DEV), train, {}
    used = {whole_text(row) for row in (*splits.get("test", ()), *trusted)}
    held_out = take([row for row in dict.fromkeys(train) if whole_text(row) not in used], count, DEV)
    texts = {whole_text(row) for row in held_out}
    others = [row for row in train if whole_text(row) not in texts]
    return held_out, others, {"held_out": len(train) - len(others)}
