"""Tasks: label words, rows of the hub, images."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from datasets import Dataset, DatasetDict

from examples.drawn_memes import draw
from p2p_dist import assets, registry
from p2p_dist.assets import file_sha256
from p2p_dist.config.model import resolve_model
from p2p_dist.config.study import RowsSpec
from p2p_dist.data import images, sources
from p2p_dist.data.build import build_attacked, build_defended
from p2p_dist.data.defenses.p2p import P2P
from p2p_dist.data.example import Row
from p2p_dist.data.images import with_hashes
from p2p_dist.data.tasks.agnews import AgNews
from p2p_dist.data.tasks.custom import Custom
from p2p_dist.data.tasks.hateful_memes import HatefulMemes
from p2p_dist.data.tasks.sst2 import Sst2
from p2p_dist.data.tasks.yahoo_answers import YahooAnswers
from p2p_dist.errors import UserError
from p2p_dist.results import datastore
from p2p_dist.scheduling.study import configs_dir, open_study
from p2p_dist.worker.build_rows import build_study_rows

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def test_words_of_each_verbalizer() -> None:
    assert Sst2(verbalizer="words").words(4) == ["negative", "positive", "bad", "good"]
    assert Sst2().words(4) == ["0", "1", "2", "3"]
    assert AgNews(verbalizer="letters").words(8) == list("ABCDEFGH")
    assert Sst2(label_words=("no", "yes", "nay", "aye")).words(3) == ["no", "yes", "nay"]


@pytest.mark.parametrize(
    ("options", "count", "code"),
    [
        ({"label_words": ("no", "yes")}, 4, "E220"),
        ({"verbalizer": "letters"}, 27, "E221"),
        ({"label_words": ("no", "yes", "no", "aye")}, 4, "E222"),
    ],
)
def test_words_unfit_refused(options: dict[str, object], count: int, code: str) -> None:
    with pytest.raises(UserError, match=code):
        Sst2.model_validate(options).words(count)


def test_custom_words_missing_refused() -> None:
    task = Custom(label_names=("no", "yes"), verbalizer="words")
    with pytest.raises(UserError, match=r"E220.*has 0"):
        task.words(2)


def test_locate_hub_task_without_pin_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("P2P_DIST_DATA", raising=False)
    with pytest.raises(UserError, match=r"no commit is pinned: set task\.revision"):
        sources.locate(YahooAnswers())
    found = sources.locate(YahooAnswers(revision=COMMIT))
    assert (found.place, found.digest) == (f"community-datasets/yahoo_answers_topics@{COMMIT}", COMMIT[:12])


def test_locate_revision_set_takes_hub(with_data: Path) -> None:
    """A study with a commit reads the hub's rows, whatever this machine has."""
    assert sources.locate(Sst2()).kind == "files"
    assert sources.locate(Sst2(revision=COMMIT)).kind == "hub"
    with pytest.raises(ValueError, match="not from both"):
        Sst2(revision=COMMIT, source=str(with_data / "sst2"))


def test_read_hub_rows_as_local_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    row = {"question_title": "why?", "question_content": "", "best_answer": " because ", "topic": 3}
    asked: list[object] = []

    def load(*place: object, revision: str) -> DatasetDict:
        asked.extend([*place, revision])
        return DatasetDict(train=Dataset.from_list([row]), test=Dataset.from_list([row]))

    monkeypatch.setattr("datasets.load_dataset", load)
    monkeypatch.delenv("P2P_DIST_DATA", raising=False)
    task = YahooAnswers(revision=COMMIT)
    assert sources.read(task, sources.locate(task))["train"][0][:2] == ("why? because", 3)
    assert asked == ["community-datasets/yahoo_answers_topics", None, COMMIT]
    row["topic"] = 10
    with pytest.raises(
        UserError,
        match=r"not one of the 10 classes from 0 at community-datasets/yahoo_answers_topics, split train, row 0",
    ):
        sources.read(task, sources.locate(task))
    del row["best_answer"]
    with pytest.raises(UserError, match=r"no column 'best_answer'; it has question_title"):
        sources.read(task, sources.locate(task))


def memes(folder: Path, count: int = 12) -> Path:
    (folder / "img").mkdir(parents=True)
    for split in ("train", "dev"):
        rows = [
            {"id": n, "img": f"img/{n}.png", "label": n % 2, "text": f"look at {split} {n} now"} for n in range(count)
        ]
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for n in range(count):
        draw("red", "circle", (20 + n, 20)).save(folder / "img" / f"{n}.png")
    return folder


STUDY = """
name: memes
task: {name: hateful_memes, source: FOLDER}
model: tiny
attack: {name: badnets, rate: 0.1}
defense: {name: p2p, benign_source: disjoint}
"""


def test_images_hashed_and_refused_by_text_models(tmp_path: Path, study_file: Callable[[str], Path]) -> None:
    folder = memes(tmp_path / "memes")
    path = study_file(STUDY.replace("FOLDER", str(folder)))
    with pytest.raises(UserError, match=r"E227.*hateful_memes carry images, which tiny cannot read.*images=false"):
        open_study(path, [], tmp_path)
    study = open_study(path, [], tmp_path, rows_only=True)
    attacked, defended = (
        datastore.read(study.folder.stage(stage)) for stage in build_study_rows(study.folder, study.expansion.graph)
    )
    for built in (attacked, defended):
        for row in [*built.train, *(row for suite in built.suites.values() for row in suite.rows)]:
            assert row.image
            assert row.image_sha256 == file_sha256(folder / row.image)
    assert attacked.counts["images"] == 12
    assert len(attacked.counts["images_sha256"]) == 64
    draw("blue", "circle", (90, 20)).save(folder / "img" / "3.png")
    assert open_study(path, [], tmp_path, rows_only=True).expansion.runs[0].stages != study.expansion.runs[0].stages
    assert open_study(path, ["task.images=false"], tmp_path).expansion.runs


def test_images_missing_or_outside_refused(tmp_path: Path) -> None:
    folder = memes(tmp_path / "memes")
    task = HatefulMemes(source=str(folder))
    with pytest.raises(ValueError, match="expected a path under"):
        task.check({"text": "x", "label": 0, "img": "../secret.png"})
    (folder / "img" / "3.png").unlink()
    (tmp_path / "secret.png").write_bytes(b"")
    (folder / "img" / "4.png").unlink()
    (folder / "img" / "4.png").symlink_to(tmp_path / "secret.png")
    built = build_attacked(
        task, sources.read(task, sources.locate(task)), RowsSpec(), registry.load("attacks", "none")(), None
    )
    (folder / "img" / "5.png").write_bytes(b"no picture")
    content = (folder / "img" / "6.png").read_bytes()
    (folder / "img" / "6.png").write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError) as caught:
        with_hashes(built, folder)
    assert [problem.code for problem in caught.value.problems] == ["E226"] * 4
    for what in ("no such image", "leads out of the folder", "no image of type PNG", "image cannot be read"):
        assert what in str(caught.value)
    assert build_defended(built, task, P2P(benign_source="random_from_D"), 0).train[0].image


def test_missing_image_folder_is_named_once(tmp_path: Path) -> None:
    """A folder that moved is one error, for all of its images, whether rows are built or a worker reads one."""
    folder = memes(tmp_path / "memes")
    task = HatefulMemes(source=str(folder))
    raw = sources.read(task, sources.locate(task))
    built = build_attacked(task, raw, RowsSpec(), registry.load("attacks", "none")(), None)
    (folder / "img").rename(tmp_path / "img")
    with pytest.raises(UserError) as caught:
        with_hashes(built, folder)
    (problem,) = caught.value.problems
    assert (problem.code, problem.where) == ("E226", str(folder / "img"))
    folder.rename(tmp_path / "moved")
    with pytest.raises(UserError, match=r"E226.*folder of the rows and their images is missing") as caught:
        images.read(folder, "img/3.png", None)
    assert (caught.value.problems[0].where, "task.source" in caught.value.problems[0].fix) == (str(folder), True)


@pytest.mark.torch
@pytest.mark.skipif(not assets.path_of("smollm2-135m-instruct").is_file(), reason="SmolLM2 is not cached here")
def test_task_words_differ_in_one_token() -> None:
    from p2p_dist.modeling.base import load_tokenizer
    from p2p_dist.modeling.tokenization import Encoder

    model = resolve_model("smollm2-135m-instruct", configs_dir() / "models")
    tokenizer = load_tokenizer(model.identity, model.local)
    row = Row("a", "some text .", 0, "Answer: ")
    for name in registry.names("tasks"):
        task = registry.load("tasks", name)
        if task().labels:
            one = task(verbalizer="words")
            assert Encoder(tokenizer, one.words(2 * len(one.labels)), 128).label_tokens(row) is not None
