"""Broken checkpoints: each is refused when a study is planned, with exit code 2 and the message of the worker."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from p2p_dist.config.model import ModelRef, resolve_model
from p2p_dist.config.study import TrainSpec
from p2p_dist.errors import Exit, UserError
from p2p_dist.model_files.check import check_folder
from p2p_dist.scheduling import prepare
from p2p_dist.scheduling.model_checks import check_models
from p2p_dist.scheduling.study import configs_dir
from tests.cli.test_main import invoke
from tests.model_files.checkpoint_cases import CASES, Case
from tests.model_folders import edit_json, edit_tensors, write_model


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete folder, which is not changed."""
    return write_model(tmp_path_factory.mktemp("models") / "sound")


@pytest.fixture
def model(sound: Path, tmp_path: Path) -> Path:
    """A copy of the complete folder, to be broken."""
    return Path(shutil.copytree(sound, tmp_path / "broken"))


def plan(study: Path, model: Path, *overrides: str) -> tuple[int, str, str]:
    return invoke("plan", str(study), f"model={model}", *overrides, "--runs-dir", str(study.parent / "runs"))


@pytest.mark.usefixtures("with_data")
def test_plan_complete_folder_accepted(sound: Path, study_file: Callable[[], Path]) -> None:
    """A folder with nothing wrong is planned."""
    code, _, error = plan(study_file(), sound)
    assert code == Exit.OK, error


@pytest.mark.usefixtures("with_data")
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_plan_broken_folder_refused(case: Case, model: Path, study_file: Callable[[], Path]) -> None:
    """The planner exits with code 2 and the error that names what is wrong, as `check_folder` raises it."""
    case.damage(model)
    with pytest.raises(UserError, match=case.message) as raised:
        check_folder(model)
    assert [problem.code for problem in raised.value.problems] == [case.code]
    assert raised.value.problems[0].fix
    code, _, error = plan(study_file(), model)
    assert code == Exit.USAGE
    assert str(raised.value) in error


def test_documented_table_has_every_kind() -> None:
    """docs/checkpoints.md says of each what the planner says."""
    page = (Path(__file__).parents[2] / "docs" / "checkpoints.md").read_text()
    rows = dict(re.findall(r"^\| ([\w ]+) \| (E\d+ \| .*) \|$", page.split("## What `plan` says")[1], re.MULTILINE))
    assert {case.name.replace("_", " ") for case in CASES} <= rows.keys()
    for case in CASES:
        text = rows[case.name.replace("_", " ")]
        assert re.search(rf"^{case.code} \| .*{case.message}", text), case.name


def test_check_folder_tied_head_may_be_stored_or_not(tmp_path: Path) -> None:
    """A tied head is not missing; a file that has it all the same is as good."""
    model = write_model(tmp_path / "tied", tie_word_embeddings=True)
    assert "lm_head.weight" not in check_folder(model).tensors
    edit_tensors(lambda tensors: tensors.update({"lm_head.weight": tensors["model.embed_tokens.weight"]}))(model)
    assert "lm_head.weight" in check_folder(model).tensors


def test_check_folder_known_buffers_ignored(model: Path) -> None:
    """Buffers that older versions stored are no extra weights."""
    name = "model.layers.0.self_attn.rotary_emb.inv_freq"
    edit_tensors(lambda tensors: tensors.update({name: tensors["model.norm.weight"]}))(model)
    assert name in check_folder(model).tensors


def test_check_folder_control_token_beyond_embeddings_accepted(model: Path) -> None:
    """A control token without an embedding is never met in text (Gemma 3 has one); an end token would be."""
    content = json.loads((model / "tokenizer.json").read_text())
    content["added_tokens"].append({**content["added_tokens"][0], "id": 258, "content": "<image>"})
    (model / "tokenizer.json").write_text(json.dumps(content))
    check_folder(model)
    edit_json("tokenizer_config.json", eos_token="<image>")(model)
    with pytest.raises(UserError, match=r"E275.*258"):
        check_folder(model)


@pytest.mark.parametrize("patterns", [["lm_head.*"], ["*"]])
def test_check_folder_allowed_patterns_accepted(patterns: list[str], model: Path) -> None:
    """Weights that match a pattern of `allow_missing` may be missing."""
    _drop_head(model)
    check_folder(model, patterns)
    with pytest.raises(UserError, match="E273"):
        check_folder(model, ["model.norm.*"])


def _drop_head(model: Path) -> None:
    def change(tensors: dict[str, object]) -> None:
        del tensors["lm_head.weight"]

    edit_tensors(change)(model)  # type: ignore[arg-type]


@pytest.mark.usefixtures("with_data")
@pytest.mark.parametrize(("targets", "code"), [("[q_proj, down_proj]", Exit.OK), ("[q_proj, c_attn]", Exit.USAGE)])
def test_plan_target_modules_are_layers_of_the_model(
    targets: str, code: Exit, sound: Path, study_file: Callable[[], Path]
) -> None:
    """Names of layers that no weight belongs to are refused with those that there are."""
    exit_code, _, error = plan(study_file(), sound, f"train.lora.target_modules={targets}")
    assert exit_code == code
    assert ("E277" in error and "c_attn: no such linear layer" in error) == (code == Exit.USAGE)


@pytest.mark.usefixtures("with_data")
@pytest.mark.parametrize("limit", ["attention_chunk_size", "sliding_window"])
def test_plan_rows_longer_than_the_model_refused(limit: str, model: Path, study_file: Callable[[], Path]) -> None:
    """A length that the family cannot compute is refused when the study is planned, with one that it can."""
    edit_json("config.json", **{limit: 64})(model)
    code, _, error = plan(study_file(), model, "train.max_length=128")
    assert code == Exit.USAGE
    assert "E294" in error
    assert "set train.max_length=64 or less" in error
    assert plan(study_file(), model, "train.max_length=64")[0] == Exit.OK


def test_check_models_answers_take_positions_behind_the_prompt(model: Path) -> None:
    """Prompt and answer together are as long as the embeddings of positions at most."""
    edit_json("config.json", model_type="gpt2", n_positions=160, max_position_embeddings=None)(model)
    folder = ModelRef("m", {"source": "folder"}, {"path": str(model)})
    check_models([(folder, TrainSpec(max_length=128), 32)], [])
    check_models([(folder, TrainSpec(max_length=160), 0)], [])
    with pytest.raises(UserError, match=r"E294.*with 64 of the answer.*160.*train\.max_length=96"):
        check_models([(folder, TrainSpec(max_length=128), 64)], [])


def test_check_models_family_that_may_not_write_text(model: Path) -> None:
    """It may be trained on labels."""
    edit_json("config.json", model_type="recurrent_gemma")(model)
    folder = ModelRef("m", {"source": "folder"}, {"path": str(model)})
    check_models([(folder, TrainSpec(), 0)], [])
    with pytest.raises(UserError, match=r"E293.*recurrent_gemma"):
        check_models([(folder, TrainSpec(), 8)], [])


@pytest.mark.usefixtures("with_data")
def test_plan_two_broken_models_both_named(tmp_path: Path, study_file: Callable[[], Path]) -> None:
    """Every model of a study is looked at before the error is raised."""
    for name in ("one", "two"):
        (write_model(tmp_path / name) / "tokenizer.json").unlink()
    code, _, error = plan(study_file(), Path(f"[{tmp_path / 'one'}, {tmp_path / 'two'}]"))
    assert code == Exit.USAGE
    assert error.count("E275") == 2


@pytest.fixture
def snapshot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A complete commit of `org/name` in the hub's cache."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return write_model(tmp_path / "hub" / "models--org--name" / "snapshots" / COMMIT)


COMMIT = "0123456789" * 4
HUB = Path(f"org/name@{COMMIT}")


@pytest.mark.usefixtures("with_data")
def test_plan_cached_hub_model_is_checked(snapshot: Path, study_file: Callable[[], Path]) -> None:
    """A commit whose files are all here is refused as a folder is."""
    assert plan(study_file(), HUB)[0] == Exit.OK
    edit_json("config.json", num_hidden_layers=3)(snapshot)
    code, _, error = plan(study_file(), HUB)
    assert code == Exit.USAGE
    assert "E273" in error


@pytest.mark.usefixtures("with_data")
def test_plan_hub_model_that_is_not_here_is_accepted(snapshot: Path, study_file: Callable[[], Path]) -> None:
    """A commit of which only a part was fetched is complete once the study runs."""
    (snapshot / "model.safetensors").unlink()
    assert plan(study_file(), HUB)[0] == Exit.OK


def test_fetch_model_checks_what_it_fetched(snapshot: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A commit without safetensors, and one that is broken, are refused before any worker starts."""
    model = resolve_model(str(HUB), configs_dir() / "models")
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *place, **options: str(snapshot))
    prepare._fetch_model(model)
    (snapshot / "tokenizer.json").unlink()
    with pytest.raises(UserError, match="E275"):
        prepare._fetch_model(model)
    (snapshot / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"E272.*pickle"):
        prepare._fetch_model(model)


def test_model_without_a_commit_is_not_fetched() -> None:
    """Its name would not always mean the same weights."""
    model = ModelRef("qwen3-32b", {"source": "hub", "ref": "Qwen/Qwen3-32B", "revision": None})
    with pytest.raises(UserError, match=r"E115.*qwen3-32b is not pinned.*qwen3-32b@<40-digit commit>"):
        prepare._fetch_model(model)
