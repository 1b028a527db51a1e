"""A cluster file may force a layout: the same study, trained by two ranks under DeepSpeed, ends with the same rates."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from p2p_dist.errors import Exit
from tests.e2e.test_study import cli

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


def test_a_forced_layout_trains_the_same_runs(study_file: Callable[[], Path], tmp_path: Path) -> None:
    study = study_file()
    (tmp_path / "two.yaml").write_text(CLUSTER)
    only = ("attack=badnets", "defense=none", "exclude=[]", "--backend", "local")
    plain = cli(study, tmp_path / "plain", *only)
    sharded = cli(study, tmp_path / "sharded", *only, "--cluster", str(tmp_path / "two.yaml"))
    assert (plain.returncode, sharded.returncode) == (Exit.OK, Exit.OK), sharded.stderr
    one, two = adapters(tmp_path / "plain"), adapters(tmp_path / "sharded")
    assert one.keys() == two.keys(), "the layout is not identity"
    for name in one:
        torch.testing.assert_close(two[name], one[name], atol=1e-4, rtol=0)
    (placed,) = [
        found for path in tmp_path.rglob("sharded/**/placement.json") if (found := json.loads(path.read_text()))["zero"]
    ]
    assert (placed["ranks"], placed["zero"], placed["micro_batch"], placed["accumulation"]) == (2, 3, 5, 2)
