"""Tables of plain text fit a terminal, and a cell that is folded stays in its column."""

from p2p_dist.report.text_columns import WIDTH, columns, folded_columns

HEAD = ["state", "defense", "seed"]
WIDE = "p2p(ratio=0.4, benign_source=screened, screening.rounds=2, screening.vouched_share=0.8)"


def test_columns_narrow_table_is_aligned() -> None:
    assert columns([HEAD, ["missing", "p2p", "0"]]) == ["  state    defense  seed", "  missing  p2p      0"]


def test_columns_wide_table_is_none() -> None:
    assert columns([HEAD, ["missing", WIDE, "0"]]) is None


def test_folded_columns_widest_is_last_and_hangs() -> None:
    lines = folded_columns([HEAD, ["missing", "none", "0"], ["missing", WIDE, "1"]])
    assert lines is not None
    assert all(len(line) <= WIDTH for line in lines)
    assert lines[0] == "  state    seed  defense"
    assert [line[:15].split() for line in lines] == [["state", "seed"], ["missing", "0"], ["missing", "1"], []]
    assert "".join(line[17:].strip() for line in lines[2:]).replace(" ", "") == WIDE.replace(" ", "")


def test_folded_columns_without_room_is_none() -> None:
    assert folded_columns([["x" * 60, "y" * 70]]) is None
