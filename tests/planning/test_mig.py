"""MIG slices are devices of which a process sees one alone."""

from pathlib import Path

import pytest

from p2p_dist.errors import UserError
from p2p_dist.planning.cluster import LayoutSpec, read_cluster
from p2p_dist.planning.placement import Misfit, Placement
from tests.planning.test_placement import gpus, put


@pytest.mark.parametrize("method", ["lora", "full"])
def test_nothing_is_split_over_mig_slices(method: str) -> None:
    """What ZeRO would shard over whole GPUs is refused, with the reason."""
    whole, sliced = (
        put("qwen3-14b", one, method=method, max_length=64)
        for one in (gpus(20), gpus(20).model_copy(update={"mig_slices": True}))
    )
    assert isinstance(whole, Placement)
    assert whole.ranks > 1
    assert isinstance(sliced, Misfit)
    assert "GiB per MIG slice" in sliced.reason
    assert "a process sees one MIG slice alone" in sliced.reason
    assert "or whole GPUs" in sliced.nearest
    fits = put("qwen3-0.6b", gpus(20).model_copy(update={"mig_slices": True}), max_length=64)
    assert isinstance(fits, Placement)
    assert fits.ranks == 1


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("gpus_per_node: 4\nlayout: {engine: plain, ranks: 2}", "one MIG slice alone: set layout.ranks to 1"),
        ("gpus_per_node: 0", "mig_slices is for nodes with GPUs"),
    ],
)
def test_ranks_over_mig_slices_are_refused(line: str, why: str, tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(f"name: c\ncpus_per_node: 8\nmig_slices: true\n{line}\n")
    with pytest.raises(UserError, match=f"E107.*{why}.*Try: "):
        read_cluster(path)
    layout = LayoutSpec(engine="plain", ranks=2)
    forced = put("qwen3-0.6b", gpus(80).model_copy(update={"mig_slices": True, "layout": layout}))
    assert isinstance(forced, Misfit)
    assert "one MIG slice alone" in forced.reason
