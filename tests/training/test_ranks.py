"""Several ranks, micro-batches and DeepSpeed's ZeRO give the run of one rank, and resume to the bit. Real processes
over gloo."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from p2p_dist.errors import UserError
from p2p_dist.modeling.base import load_base
from p2p_dist.modeling.lora import Adapters
from p2p_dist.training.batches import micro_batches
from p2p_dist.training.cohort import train_cohort
from p2p_dist.training.engine import Execution
from p2p_dist.training.ranks import MEETING, Ranks, join
from tests import process_group
from tests.training.test_cohort import IDENTITY, RUNS

PLAIN = "0:0:none:float32:5"
TWO = [
    PLAIN,
    "0:3:none:float32:5",
    "1:0:none:float32:5",
    "2:2:none:float32:7",
    "3:2:none:float32:5",
    "2:0:optimizer:float32:6",
    "3:0:none:bfloat16:5",
]
ONE = [PLAIN, "0:3:none:float32:5", "2:3:none:float32:5", "0:0:none:bfloat16:0"]
ON_GPU = ["0:0:none:float32:0:gpu", "3:0:none:float32:0:gpu"]
"""Layouts with products as on GPUs, and gradient checkpointing."""
FULL = f"{PLAIN}:full"
FULL_TWO = [
    FULL,
    "1:0:none:float32:5:full",
    "2:2:none:float32:7:full",
    "3:2:none:float32:5:full",
    "2:0:optimizer:float32:6:full",
]
"""Layouts of full-parameter fine-tuning."""


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[int, str], Path]:
    """Every layout, trained by one rank or two."""
    found = {}
    for world, layouts in ((1, [*ONE, FULL, *ON_GPU]), (2, [*TWO, *FULL_TWO, ON_GPU[1]])):
        out = tmp_path_factory.mktemp(f"ranks{world}")
        parts = ["parts"] if world == 2 else []
        command = ["-W", "ignore", "-m", "tests.training.probe_ranks", str(out), *parts, *layouts]
        process_group.run(command, world, {MEETING: str(out / "meeting.json")} if world > 1 else None)
        found.update({(world, layout): out / layout for layout in layouts})
    return found


@pytest.mark.parametrize(
    ("world", "layout"),
    [(1, layout) for layout in [*ONE[1:3], *ON_GPU]] + [(2, layout) for layout in [*TWO[:-1], *FULL_TWO, ON_GPU[1]]],
)
def test_any_layout_gives_the_run_of_one_rank(world: int, layout: str, trained: dict[tuple[int, str], Path]) -> None:
    """Same samples in the same order, same dropout, same clipping: only the order of sums differs."""
    keys = ((1, FULL if layout.endswith(":full") else PLAIN), (world, layout))
    reference, found = (json.loads(trained[key].with_suffix(".json").read_text()) for key in keys)
    torch.testing.assert_close(torch.tensor(found["losses"]), torch.tensor(reference["losses"]), atol=2e-5, rtol=0)
    values = [load_file(trained[key].with_suffix(".safetensors"))["whole"] for key in keys]
    torch.testing.assert_close(values[1], values[0], atol=2e-4, rtol=0)
    assert len(found["topologies"]) == 1


def test_ranks_meet_at_a_port_that_rank_0_opened(trained: dict[tuple[int, str], Path]) -> None:
    """All layouts of two ranks were trained over it, and none over the port of MASTER_PORT."""
    assert json.loads((trained[2, PLAIN].parent / "meeting.json").read_text())["port"] > 0


@pytest.mark.parametrize("rank", [0, 1])
def test_zero_3_never_holds_a_whole_base(rank: int, trained: dict[tuple[int, str], Path]) -> None:
    """While a base is cut, a rank allocates its half and one weight at a time; the main rank's own weights, which it
    read before, are not among them."""
    record = json.loads((trained[2, PLAIN].parent / f"parts{rank}.json").read_text())
    assert 0.5 * record["whole"] <= record["peak"] < 0.5 * record["whole"] + record["largest"]


def test_zero_in_bfloat16_follows_the_plain_run(trained: dict[tuple[int, str], Path]) -> None:
    curves = [
        json.loads(trained[key].with_suffix(".json").read_text())["losses"] for key in ((1, ONE[-1]), (2, TWO[-1]))
    ]
    torch.testing.assert_close(torch.tensor(curves[1]), torch.tensor(curves[0]), atol=0.05, rtol=0)


@pytest.mark.parametrize(
    ("world", "layout"), [(1, layout) for layout in [*ONE[:3], FULL]] + [(2, layout) for layout in [*TWO, *FULL_TWO]]
)
def test_resumed_under_any_layout_gives_the_same_bits(
    world: int, layout: str, trained: dict[tuple[int, str], Path]
) -> None:
    kept = load_file(trained[world, layout].with_suffix(".safetensors"))
    assert torch.equal(kept["whole"], kept["resumed"])


def test_stopped_ranks_wait_for_the_main_rank_checkpoint(tmp_path: Path) -> None:
    """Launchers end a gang when one of its ranks has ended; a checkpoint that is still being written would be lost."""
    process_group.run(["-W", "ignore", "-m", "tests.training.probe_stop", str(tmp_path)], 2)
    assert {path.name: path.read_text() for path in tmp_path.glob("left_*")} == dict.fromkeys(
        ("left_0", "left_1"), "after it was kept"
    )


def test_shares_hold_each_row_once_in_equal_passes() -> None:
    """Every row is in one share and all ranks make the same number of passes."""
    for world in (1, 2, 3):
        for size in (None, 1, 2, 3, 100):
            shares = [micro_batches([8, 5, 0], rank, world, size) for rank in range(world)]
            assert len({len(share) for share in shares}) == 1
            for run, count in enumerate((8, 5, 0)):
                places = sorted(place for share in shares for part in share for place in part[run])
                assert places == list(range(count))
            if size is not None:
                assert max(len(places) for share in shares for part in share for places in part) <= size


def test_a_gang_says_what_is_missing() -> None:
    with pytest.raises(UserError, match=r"E310.*MASTER_ADDR, MASTER_PORT not set"):
        join({"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0"})
    assert join({}) == Ranks(0, 1)


def test_a_cohort_is_not_sharded() -> None:
    base = load_base(IDENTITY, {}, "float32")
    with pytest.raises(UserError, match="E311"):
        train_cohort(base, Adapters(base.model, RUNS[0].spec.lora, 3), RUNS, execution=Execution(zero=2))
