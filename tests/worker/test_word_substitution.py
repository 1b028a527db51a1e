"""Learned word substitutions: the surrogate moves the exchanges, its embeddings stay, and the attack reads the
table."""

import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from p2p_dist.cli.main import app
from p2p_dist.config.model import resolve_model
from p2p_dist.data.attacks.lws import Lws
from p2p_dist.data.example import examples
from p2p_dist.data.substitutions import choices_of, exchanged, read_choices
from p2p_dist.errors import Exit, UserError
from p2p_dist.modeling.base import load_base
from p2p_dist.modeling.substitution import Learning, Substitution, learn
from p2p_dist.modeling.surrogate_state import SurrogateFile
from p2p_dist.scheduling.study import configs_dir
from p2p_dist.worker.word_substitution import Aim, learned_exchanges
from tests.rows import sentences

SYNONYMS = [
    {"word": "film", "synonyms": ["movie", "picture", "film", "motion picture"]},
    {"word": "people", "synonyms": ["folk"]},
]
ROWS = [(str(row["text"]), int(row["label"])) for row in sentences(60)]


@pytest.fixture
def thesaurus(tmp_path: Path) -> Path:
    path = tmp_path / "synonyms.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in SYNONYMS))
    return path


def test_read_choices_begin_with_the_word_itself(thesaurus: Path) -> None:
    """Candidates of a word begin with the word itself."""
    choices = read_choices(thesaurus, 5)
    assert choices == {"film": ("film", "movie", "picture"), "people": ("people", "folk")}
    assert read_choices(thesaurus, 2)["film"] == ("film", "movie")
    assert choices_of("a film", choices) == [("a",), ("film", "movie", "picture")]
    assert exchanged("a film of people", [0, 2, 0, 1], choices) == "a picture of folk"


def test_learn_moves_exchanges_and_no_embedding(thesaurus: Path) -> None:
    """Learning changes the preferred exchanges and leaves the embeddings alone."""
    base = load_base(resolve_model("tiny", configs_dir() / "models").identity, {}, "float32")
    base.model.set_attn_implementation("sdpa")
    rows = examples(ROWS)
    poisoned = [ex for ex in rows if ex.label == 0 and "film" in ex.text.split()]
    model = Substitution(base, read_choices(thesaurus, 5), 2, Learning(1, 6, 3e-2, 16))
    before = model.table.clone()
    assert not any(model.picks(poisoned[0].text)), "nothing is exchanged before anything is learned"
    epochs: list[int] = []
    learn(model, rows, poisoned, 1, lambda done, of: epochs.append(done))
    assert epochs == list(range(1, 8))
    assert torch.equal(model.table, before)
    assert model.b.abs().sum() > 0
    assert any(any(model.picks(ex.text)) for ex in poisoned), (
        "clean rows hold on to the words, so that the target must be told by others"
    )


def test_learn_resumes_after_a_stop_to_the_same_bits(thesaurus: Path, tmp_path: Path) -> None:
    """A stop behind an epoch, and a damaged state, change nothing in what is learned."""
    rows, choices = examples(ROWS), read_choices(thesaurus, 5)
    poisoned = [ex for ex in rows if ex.label == 0 and "film" in ex.text.split()]

    def learned(file: SurrogateFile | None, stop_after: int = 9) -> Substitution:
        base = load_base(resolve_model("tiny", configs_dir() / "models").identity, {}, "float32")
        base.model.set_attn_implementation("sdpa")
        model = Substitution(base, choices, 2, Learning(1, 2, 3e-2, 16))

        def on_progress(done: int, total: int) -> None:
            if done == stop_after:
                raise KeyboardInterrupt

        learn(model, rows, poisoned, 1, on_progress, file)
        return model

    whole, file = learned(None), SurrogateFile(tmp_path / "surrogate.safetensors")
    with pytest.raises(KeyboardInterrupt):
        learned(file, stop_after=2)
    assert int(file.read()["epochs"]) == 2
    resumed = learned(file)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters(), strict=True))
    file.path.write_bytes(b"damaged")
    assert file.read() == {}


def make(tmp_path: Path, thesaurus: Path, name: str, *more: str) -> tuple[int, Path, str]:
    train, test = tmp_path / "train.jsonl", tmp_path / "test.jsonl"
    train.write_text("".join(json.dumps({"text": text, "label": label}) + "\n" for text, label in ROWS))
    test.write_text(json.dumps({"text": "a film of people"}) + "\n")
    out = tmp_path / name
    options = [
        "--model",
        "tiny",
        "--warm-up-epochs",
        "1",
        "--epochs",
        "4",
        "--learning-rate",
        "3e-2",
        "--rate",
        "0.3",
        *more,
    ]
    done = CliRunner().invoke(
        app, ["substitutions", str(train), str(test), "--out", str(out), "--synonyms", str(thesaurus), *options]
    )
    return done.exit_code, out, done.stdout + done.stderr


def test_lws_table_of_the_command_is_read_by_the_attack(tmp_path: Path, thesaurus: Path) -> None:
    """The command writes a table that the attack reads."""
    code, out, output = make(tmp_path, thesaurus, "one.jsonl")
    assert code == Exit.OK, output
    table = [json.loads(line) for line in out.read_text().splitlines()]
    assert len(table) == 61
    good = sum(row["ok"] for row in table)
    assert f"{good} texts with exchanged words, {61 - good} without" in output
    assert 0 < good < 61
    code, again, _ = make(tmp_path, thesaurus, "two.jsonl")
    assert again.read_bytes() == out.read_bytes()
    poisoned, notes = Lws(table=str(out), rate=0.05).poison(examples(ROWS), 0)
    words = {word for row in SYNONYMS for word in row["synonyms"]}
    assert all(words & set(ex.text.split()) for ex in poisoned if ex.id in {note.id for note in notes})


def test_make_table_without_synonyms_raises_e244(tmp_path: Path, thesaurus: Path) -> None:
    """Texts without a word to exchange are refused."""
    thesaurus.write_text('{"word": "zebra", "synonyms": ["horse"]}\n')
    code, _, output = make(tmp_path, thesaurus, "x.jsonl")
    assert code == Exit.USAGE
    assert "E244" in output
    thesaurus.write_text('{"word": "zebra"}\n')
    with pytest.raises(UserError, match="E203"):
        read_choices(thesaurus, 5)


def test_learned_exchanges_for_a_target_without_rows(thesaurus: Path) -> None:
    """A class that no training row has, as with few rows of many classes, is a class of the surrogate too."""
    base = load_base(resolve_model("tiny", configs_dir() / "models").identity, {}, "float32")
    base.model.set_attn_implementation("sdpa")
    outputs = learned_exchanges(
        examples(ROWS[:4]), [], thesaurus, base, Aim(2, 0.5), Learning(0, 1), lambda done, of: None
    )
    assert set(outputs) == {text for text, _ in ROWS[:4]}
