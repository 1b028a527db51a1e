"""Full-parameter fine-tuning by the command line: trained, killed, resumed, evaluated and reported as adapters are."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

from p2p_dist.cli.main import app
from p2p_dist.errors import Exit
from tests import in_process
from tests.outcomes import assert_same, results

pytestmark = pytest.mark.usefixtures("with_data")
TRAIN = (
    "train={method: full, learning_rate: 1e-3, num_train_epochs: 1, global_batch: 8, max_length: 96, dtype: float32}"
)
OPTIONS = (TRAIN, "attack={name: badnets, rate: 0.05}", "exclude=[]", "--backend", "local", "--checkpoint-every", "2")
TWO = "name: two\ncpus_per_node: 2\nmemory_gb: 8\nlayout: {engine: deepspeed, ranks: 2, zero: 3, micro_batch: 4}\n"


def models(runs: Path) -> dict[str, torch.Tensor]:
    """Every weight of every trained model, by training and name."""
    files = sorted(runs.rglob("adapter/model.safetensors"))
    return {f"{path.parts[-3]} {name}": tensor for path in files for name, tensor in load_file(path).items()}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, data_root: Path) -> tuple[Path, Path]:
    """Study file and runs of the tiny study, undefended and with P2P, trained in all weights."""
    from tests.conftest import TINY_STUDY

    folder = tmp_path_factory.mktemp("full")
    study, runs = folder / "study.yaml", folder / "runs"
    study.write_text(TINY_STUDY)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("P2P_DIST_DATA", str(data_root))
        done = in_process.cli(study, runs, *OPTIONS)
    assert done.returncode == Exit.OK, done.stderr
    return study, runs


def test_full_training_leaves_models_that_transformers_loads(trained: tuple[Path, Path]) -> None:
    _, runs = trained
    folders = [path.parent for path in runs.rglob("adapter/model.safetensors")]
    assert len(folders) == 2
    assert not list(runs.rglob("adapter_model.safetensors"))
    assert not list(runs.rglob("checkpoints"))
    assert AutoModelForCausalLM.from_pretrained(folders[0]).config.model_type
    assert len(list(runs.rglob("result.json"))) == 2


def test_killed_full_training_gives_the_same_bytes(trained: tuple[Path, Path], tmp_path: Path) -> None:
    study, runs = trained
    with in_process.at_step(3, in_process.kill):
        done = in_process.cli(study, tmp_path, *OPTIONS)
    assert done.returncode == Exit.OK, done.stderr
    assert any(name.endswith("model.safetensors") for name in results(runs))
    assert_same(tmp_path, results(runs))


@pytest.mark.slow("starts two ranks under DeepSpeed; test_ranks.py trains all layouts, and evaluation is its fast part")
def test_full_training_under_zero_3_gives_the_same_models(trained: tuple[Path, Path], tmp_path: Path) -> None:
    study, runs = trained
    (tmp_path / "two.yaml").write_text(TWO)
    options = (*OPTIONS, "defense=none", "--cluster", str(tmp_path / "two.yaml"))
    done = in_process.cli(study, tmp_path / "runs", *options)
    assert done.returncode == Exit.OK, done.stderr
    one, two = models(runs), models(tmp_path / "runs")
    assert two
    for name, weight in two.items():
        torch.testing.assert_close(weight, one[name], atol=1e-4, rtol=0)


def test_full_training_has_no_adapter_to_export(trained: tuple[Path, Path]) -> None:
    _, runs = trained
    done = CliRunner().invoke(app, ["export", str(runs / "tiny"), "defense=none", "-o", str(runs / "exported")])
    assert done.exit_code == Exit.USAGE
    assert "E298" in done.stderr
    assert not (runs / "exported").exists()


def test_plan_says_what_full_training_takes(study_file: Callable[[], Path], tmp_path: Path) -> None:
    options = (TRAIN, "exclude=[]", "defense=none", "model=qwen3-0.6b", "--cluster", "8xh100")
    plan = in_process.cli(study_file(), tmp_path, *options, "--json", verb="plan")
    (model,) = json.loads(plan.stdout)["models"]
    assert model["placement"]["memory"]["adapter"] == 0
    assert model["placement"]["memory"]["gradients"] > 0
    assert model["disk_gib"]["checkpoints"] > model["disk_gib"]["model"] > 1
    assert "all weights are trained" in in_process.cli(study_file(), tmp_path, *options, verb="plan").stdout


@pytest.mark.parametrize(
    ("override", "code"),
    [
        ("defense={name: p2p, benign_source: screened}", "E260"),
        ("defense=psim", "E260"),
        ("defense=crow", "E260"),
        ("defense=moddef", "E260"),
        ("train.quantization=nf4", "4-bit weights take no gradient"),
        ("train.lora.r=4", "train.lora is for train.method: lora"),
    ],
)
def test_full_training_is_refused_where_it_cannot_be(
    study_file: Callable[[], Path], tmp_path: Path, override: str, code: str
) -> None:
    done = in_process.cli(study_file(), tmp_path, TRAIN, "exclude=[]", override, verb="plan")
    assert done.returncode == Exit.USAGE
    assert code in " ".join(done.stderr.split())
