"""Studies of one defense on the tiny model, carried out by the worker in this process."""

from functools import cache
from pathlib import Path
from tempfile import mkdtemp

from p2p_dist import registry
from p2p_dist.config.model import resolve_model
from p2p_dist.data.example import Kind
from p2p_dist.errors import Exit
from p2p_dist.modeling.random_init import random_model
from p2p_dist.results.rundir import RunDir
from p2p_dist.scheduling.study import Study, configs_dir
from p2p_dist.worker.__main__ import main as worker_main
from tests.contracts.test_plugins import paraphrase_table

STUDY = """
name: one
task: sst2
model: tiny
attack: {name: badnets, rate: 0.1}
rows: {train: 48, test: 12, reserve: 12}
train: {learning_rate: 1e-2, num_train_epochs: 1, global_batch: 16, dtype: float32, lora: {r: 2}}
"""
GENERATION = """
name: one
task: {name: gsm8k, max_new_tokens: 6}
model: tiny
attack: {name: badnets, rate: 0.1, target_response: "0.1"}
rows: {train: 48, test: 12, reserve: 12, balanced: false}
train: {learning_rate: 1e-2, num_train_epochs: 1, global_batch: 16, dtype: float32, lora: {r: 2}}
"""
GO_ON = "screening: {on_failed_screening: go_on}"
"""Three steps on random weights meet no rule."""
SPECIAL: dict[str, str] = {
    "onion": "language_model: tiny, ",
    "trusted_only": GO_ON,
    "abl": GO_ON,
    "musclelora": "clean_rows: 8, batch: 16, epochs: 1",
    "p2p_in_weights": f"p2p: {{benign_source: screened, ratio: 0.4, {GO_ON}}}",
}


def options(name: str) -> str:
    fields = registry.load("defenses", name).model_fields
    table = f"table: {paraphrase_table()}, min_coverage: 0.0, " if "table" in fields else ""
    return f"defense={{name: {name}, {table}{SPECIAL.get(name, '')}}}"


def of_kind(kind: Kind) -> list[str]:
    return [name for name in registry.names("defenses") if kind in registry.load("defenses", name).kinds]


@cache
def deep_model() -> Path:
    """A folder with a tiny model of five layers, for what looks between them."""
    folder = Path(mkdtemp())
    shape = {**resolve_model("tiny", configs_dir() / "models").identity["shape"], "layers": 5}
    for part in random_model(shape):
        part.save_pretrained(folder)
    return folder


def carried_out(study: Study) -> RunDir:
    """Every stage of a study, done in its order."""
    graph, folder = study.expansion.graph, study.folder
    folder.write_specs(graph)
    for stage in graph.stages.values():
        assert worker_main(["--study-dir", str(folder.path), "--stages", stage.id]) == Exit.OK
        assert folder.stage(stage).is_done()
    return folder
