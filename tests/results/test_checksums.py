"""Checksums of stages: every file that another stage reads is checked before it is used."""

from pathlib import Path

import pytest

from p2p_dist.errors import Exit, UserError
from p2p_dist.results import atomic, checksums, datastore, predictions, scorestore
from p2p_dist.results.predictions import Prediction
from p2p_dist.results.rundir import RunDir, StageDir
from tests.results.test_datastore import built


def flip_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.fixture
def trained(tmp_path: Path) -> StageDir:
    """A finished training with an adapter of two files."""
    stage = RunDir(tmp_path).at("train", "a")
    with atomic.new_folder(stage.adapter) as unfinished:
        (unfinished / "adapter_model.safetensors").write_bytes(bytes(range(256)))
        (unfinished / "adapter_config.json").write_text("{}")
        checksums.write_folder(stage, "adapter", unfinished)
    return stage


@pytest.mark.parametrize("name", ["adapter_model.safetensors", "adapter_config.json"])
def test_adapter_with_a_flipped_bit_is_refused(trained: StageDir, name: str) -> None:
    assert checksums.adapter(trained) == trained.adapter
    flip_bit(trained.adapter / name)
    with pytest.raises(UserError, match=f"E519.*{name}.*Try: delete the stage's folder") as caught:
        checksums.adapter(trained)
    assert caught.value.exit_code == Exit.INTEGRITY


def test_adapter_without_one_of_its_files_is_refused(trained: StageDir) -> None:
    (trained.adapter / "adapter_config.json").unlink()
    with pytest.raises(UserError, match=r"E519.*it is missing"):
        checksums.adapter(trained)


def test_adapter_behind_a_link_is_refused(trained: StageDir, tmp_path: Path) -> None:
    trained.adapter.rename(tmp_path / "elsewhere")
    trained.adapter.symlink_to(tmp_path / "elsewhere")
    assert not trained.is_done()
    with pytest.raises(UserError, match=r"E519.*a link"):
        checksums.adapter(trained)


def test_stage_of_an_older_version_is_used_with_a_warning(
    trained: StageDir, capsys: pytest.CaptureFixture[str]
) -> None:
    trained.checksums.unlink()
    assert checksums.adapter(trained) == trained.adapter
    assert checksums.adapter(trained) == trained.adapter
    assert capsys.readouterr().err.count("warning[W303]: no checksums (written by an older version)") == 1


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"sha256": {}}', b'{"sha256": {"a": 1}}', b"\xff"])
def test_damaged_checksums_are_no_missing_ones(trained: StageDir, content: bytes) -> None:
    trained.checksums.write_bytes(content)
    with pytest.raises(UserError, match="E521"):
        checksums.adapter(trained)


def test_manifest_with_another_offset_is_refused(tmp_path: Path) -> None:
    """The manifest decides how answers are read; one digit of it would change every rate."""
    stage = RunDir(tmp_path).at("data", "a")
    datastore.write(stage, built(), {})
    text = stage.manifest.read_text()
    stage.manifest.write_text(text.replace('"offset": 2', '"offset": 0'))
    assert stage.manifest.read_text() != text
    for read in (datastore.read, lambda stage: datastore.texts(stage, "clean"), lambda s: datastore.suite(s, "clean")):
        with pytest.raises(UserError, match=r"E519.*manifest\.json"):
            read(stage)


def test_edited_score_is_refused(tmp_path: Path) -> None:
    stage = RunDir(tmp_path).at("score", "a")
    scorestore.write(stage, [{"set": "train", "id": "x", "score": 0.25}])
    assert scorestore.read(stage) == {"train": {"x": {"score": 0.25}}}
    stage.scores.write_text(stage.scores.read_text().replace("0.25", "0.75"))
    with pytest.raises(UserError, match=r"E519.*scores\.jsonl"):
        scorestore.read(stage)


def test_edited_prediction_is_refused(tmp_path: Path) -> None:
    stage = RunDir(tmp_path).at("eval", "a")
    predictions.write(stage, "clean", [Prediction("x", 0, (0.5, 0.25), 0)])
    predictions.seal(stage, ["clean"])
    assert predictions.read(stage)["clean"][0].label == 0
    flip_bit(stage.predictions / "clean.jsonl")
    with pytest.raises(UserError, match=r"E519.*clean\.jsonl"):
        predictions.read(stage)
