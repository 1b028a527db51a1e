"""A cluster file may force a layout: the same study, trained by two ranks under DeepSpeed, ends with the same rates."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from p2p_dist.errors import Exit
from tests import in_process
from tests.studies import FinishedStudy

pytestmark = pytest.mark.usefixtures("with_data")
CLUSTER = (
    "name: two\ncpus_per_node: 2\nmemory_gb: 8\nlayout: {engine: deepspeed, ranks: 2, zero: 3, micro_batch: 5, "
    "gradient_checkpointing: true}\n"
)


def adapters(runs: Path) -> dict[str, torch.Tensor]:
    return {
        f"{path.parts[-3]} {name}": tensor
        for path in sorted(runs.rglob("adapter_model.safetensors"))
        for name, tensor in load_file(path).items()
    }


def test_a_forced_layout_trains_the_same_runs(finished: FinishedStudy, tmp_path: Path) -> None:
    """The adapter is that of the study of one rank, up to the order of sums."""
    (tmp_path / "two.yaml").write_text(CLUSTER)
    options = ("attack={name: badnets, rate: 0.05}", "defense=none", "exclude=[]", "--backend", "local")
    done = in_process.cli(finished.file, tmp_path / "runs", *options, "--cluster", str(tmp_path / "two.yaml"))
    assert done.returncode == Exit.OK, done.stderr
    one, two = adapters(finished.runs), adapters(tmp_path / "runs")
    assert two.keys() < one.keys(), "the layout is not identity"
    assert two
    for name, tensor in two.items():
        torch.testing.assert_close(tensor, one[name], atol=1e-4, rtol=0)
    placed = [json.loads(path.read_text()) for path in tmp_path.rglob("placement.json")]
    layouts = {(one["ranks"], one["zero"], one["micro_batch"], one["accumulation"]) for one in placed if one["zero"]}
    assert layouts == {(2, 3, 5, 2)}
