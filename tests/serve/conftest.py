"""Exports of a tiny study for programs of others. Attention heads have 32 dimensions, for which vLLM has kernels."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from p2p_dist.cli.main import app
from p2p_dist.results.rundir import RunDir
from tests.conftest import TINY_STUDY
from tests.deployment.conftest import carry_out, model_folder

STUDY = TINY_STUDY.replace("num_train_epochs: 1", "num_train_epochs: 6").replace("test: 20", "test: 40")


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, data_root: Path) -> RunDir:
    folder = tmp_path_factory.mktemp("finished")
    model = model_folder(folder / "model", tied=True, hidden=64, intermediate=128, heads=2, kv_heads=2, head_dim=32)
    config = json.loads((model / "config.json").read_text())
    # vLLM takes a base without it for a model of embeddings.
    (model / "config.json").write_text(json.dumps({**config, "architectures": ["Qwen3ForCausalLM"]}))
    file = folder / "study.yaml"
    file.write_text(STUDY.replace("tiny\nattack", f"{model}\nattack"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("P2P_DIST_DATA", str(data_root))
        return carry_out(file, [], folder / "runs")


def export(finished: RunDir, out: Path, format_: str) -> Path:
    done = CliRunner().invoke(app, ["export", str(finished.path), "defense=p2p", "-o", str(out), "--format", format_])
    assert done.exit_code == 0, done.stderr
    return out


@pytest.fixture(scope="session")
def exported(finished: RunDir, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The P2P run as a merged model."""
    return export(finished, tmp_path_factory.mktemp("exported") / "served", "merged")


@pytest.fixture(scope="session")
def adapter(finished: RunDir, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The P2P run as an adapter."""
    return export(finished, tmp_path_factory.mktemp("exported") / "served", "adapter")


def rows(folder: Path) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Test rows of an export with the answers that are expected."""
    tests, expected = ((folder / "eval" / name).read_text().splitlines() for name in ("test.jsonl", "expected.jsonl"))
    return list(zip(map(json.loads, tests), map(json.loads, expected), strict=True))
