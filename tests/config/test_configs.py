"""Every shipped file loads, and every study plans on every cluster."""

import pytest

from p2p_dist.config.model import model_names, read_model, resolve_model
from p2p_dist.errors import UserError
from p2p_dist.planning.cluster import read_cluster
from p2p_dist.report import plan_view
from p2p_dist.scheduling.study import configs_dir, open_study

STUDIES = sorted((configs_dir() / "studies").glob("*.yaml"))
CLUSTERS = sorted((configs_dir() / "clusters").glob("*.yaml"))


@pytest.mark.usefixtures("local_rows")
@pytest.mark.parametrize("study", STUDIES, ids=lambda path: path.stem)
def test_study_plans_on_every_cluster(study, tmp_path) -> None:
    opened = open_study(study, [], tmp_path)
    for cluster in CLUSTERS:
        facts = plan_view.to_json(opened.expansion, opened.plan(read_cluster(cluster)), opened.model_names())
        assert len(facts["runs"]) == len(opened.expansion.runs) > 0
        text = plan_view.text(opened.spec.name, facts)
        assert [line for line in text.splitlines() if len(line) > 80] == [], cluster.stem
        words = " ".join(text.split())
        assert f"0 of {len(facts['runs'])} done" in words, cluster.stem
        assert {model["model"] for model in facts["models"]} == {model.name for model in opened.spec.model}
        assert all(
            ("placement" in model and model["placement"]["memory"]) or model["nearest"] in words
            for model in facts["models"]
        ), cluster.stem


@pytest.mark.parametrize("name", model_names(configs_dir() / "models"))
def test_model_resolves_and_has_a_random_twin(name: str) -> None:
    folder = configs_dir() / "models"
    file = read_model(name, folder)
    assert resolve_model(f"random:{name}", folder).identity["shape"] == file.shape.identity()
    assert resolve_model(name, folder).shape == file.shape
    if file.source == "hub" and file.revision is None:
        with pytest.raises(UserError, match="E115"):
            resolve_model(file.ref, folder)
        commit = "0123456789" * 4
        assert resolve_model(f"{file.ref}@{commit}", folder).shape == file.shape


def test_known_sizes() -> None:
    folder = configs_dir() / "models"
    shapes = {name: read_model(name, folder).shape for name in model_names(folder)}
    assert round(shapes["smollm2-135m-instruct"].parameters / 1e6) == 134  # 134.5 M with norms
    assert round(shapes["qwen3-0.6b"].parameters / 1e6) == 596
    assert round(shapes["qwen3-0.6b"].linear_parameters / 1e6) == 440
    assert {name: round(shape.parameters / 1e9, 2) for name, shape in shapes.items() if shape.parameters > 1e9} == {
        "qwen3-1.7b": 1.72,
        "qwen3-4b": 4.02,
        "qwen3-8b": 8.19,
        "qwen3-14b": 14.77,
        "qwen2.5-vl-3b-instruct": 3.75,
        "qwen2.5-vl-7b-instruct": 8.29,
        "llama-3.1-8b": 8.03,
        "llama-3.1-8b-instruct": 8.03,
        "deepseek-r1-distill-llama-8b": 8.03,
        "mistral-7b-instruct-v0.3": 7.25,
        "gpt-oss-20b": 20.91,
        "qwen3-32b": 32.76,
        "llama-3.3-70b-instruct": 70.55,
    }
