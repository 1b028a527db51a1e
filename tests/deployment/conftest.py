"""A finished tiny study on a model of its own, made by the worker in this process."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from p2p_dist.cli.main import app
from p2p_dist.results.rundir import RunDir
from tests.conftest import TINY_STUDY


def model_folder(folder: Path, tied: bool, shard_size: str = "16KB", **sizes: int) -> Path:
    """A tiny model with a merging tokenizer, in several files; `sizes` replace those of the model `tiny`."""
    from huggingface_hub import save_torch_state_dict

    from p2p_dist.config.model import resolve_model
    from p2p_dist.modeling.random_init import random_model
    from p2p_dist.scheduling.study import configs_dir
    from tests.deployment.small_tokenizer import merging_tokenizer

    folder.mkdir()
    shape = resolve_model("tiny", configs_dir() / "models").identity["shape"]
    tokenizer = merging_tokenizer(bos=True)
    model, _ = random_model({**shape, **sizes, "vocab": len(tokenizer), "tied_embeddings": tied})
    weights = {name: weight for name, weight in model.state_dict().items() if not (tied and name == "lm_head.weight")}
    save_torch_state_dict(weights, folder, max_shard_size=shard_size)
    (folder / "config.json").write_text(model.config.to_json_string())
    tokenizer.save_pretrained(folder)
    return folder


def carry_out(study_file: Path, overrides: list[str], runs: Path) -> RunDir:
    """Every stage of a study, one after the other."""
    from p2p_dist.scheduling.prepare import write_down
    from p2p_dist.scheduling.study import open_study
    from p2p_dist.worker.__main__ import main as worker_main

    study = open_study(study_file, overrides, runs)
    write_down(study)
    study.folder.write_specs(study.expansion.graph)
    for stage in study.expansion.graph.stages.values():
        assert worker_main(["--study-dir", str(study.folder.path), "--stages", stage.id]) == 0
    return study.folder


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, data_root: Path) -> RunDir:
    """A study with the runs none x none, badnets x none and badnets x p2p, on a tied base of several files."""
    folder = tmp_path_factory.mktemp("finished")
    model = model_folder(folder / "model", tied=True)
    file = folder / "study.yaml"
    file.write_text(TINY_STUDY.replace("tiny\nattack", f"{model}\nattack"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("P2P_DIST_DATA", str(data_root))
        return carry_out(file, [], folder / "runs")


@pytest.fixture(scope="session")
def exported(finished: RunDir, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The P2P run in both forms."""
    out = tmp_path_factory.mktemp("exported") / "served"
    done = CliRunner().invoke(app, ["export", str(finished.path), "defense=p2p", "-o", str(out), "--format", "both"])
    assert done.exit_code == 0, done.stderr
    return out
