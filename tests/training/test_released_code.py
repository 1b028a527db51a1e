"""P2P as released against a plain copy of the released code's steps, with PEFT and transformers alone: the same rows,
base, start and order of rows give the same losses and the same answers."""

from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model, set_peft_model_state_dict

from p2p_dist.config.load import load_study
from p2p_dist.config.model import resolve_model
from p2p_dist.config.study import LoraSpec
from p2p_dist.data.attacks.badnets import BadNets
from p2p_dist.data.build import build_attacked, build_defended
from p2p_dist.data.built import Built
from p2p_dist.data.defenses.p2p import P2P
from p2p_dist.data.example import RawRow
from p2p_dist.evaluation.label_scoring import score_suite
from p2p_dist.evaluation.metrics import rates
from p2p_dist.modeling.base import load_base
from p2p_dist.modeling.lora import Adapters
from p2p_dist.modeling.random_init import random_model
from p2p_dist.modeling.tokenization import Encoder
from p2p_dist.scheduling.study import configs_dir
from p2p_dist.training.cohort import Observer, train_cohort
from p2p_dist.training.train_run import TrainRun
from tests import released_code
from tests.released_code import ReleasedRow
from tests.rows import sentences

SPEC = load_study(configs_dir() / "studies" / "paper_parity.yaml", [], configs_dir() / "models")
TRAIN = SPEC.train.model_copy(
    update={"learning_rate": 2e-2, "dtype": "float32", "lora": SPEC.train.lora.model_copy(update={"dropout": 0.0})}
)
"""The study's training but for dropout, whose masks are drawn otherwise, and a rate at which a small model learns."""
WIDER = {"hidden": 64, "intermediate": 128, "heads": 4, "kv_heads": 2, "head_dim": 16}
"""Width at which the tiny model comes to answer with labels."""
PAIRS = {
    split: [(str(row["text"]), int(row["label"])) for row in sentences(count, seed)]
    for split, count, seed in (("train", 200, 1), ("test", 40, 2))
}
RAW = {split: [RawRow(text, label) for text, label in pairs] for split, pairs in PAIRS.items()}


def gap(built: Built) -> dict[str, int]:
    """Gap of the trigger by text without it, of every row that has it."""
    rows = [row for part in (built.train, *(suite.rows for suite in built.suites.values())) for row in part]
    texts = [row.text.split() for row in rows if released_code.WORD in row.text.split()]
    return {" ".join(w for w in words if w != released_code.WORD): words.index(released_code.WORD) for words in texts}


@pytest.fixture(scope="module")
def built() -> Built:
    """Rows of the study with the attack and the defense of the released code."""
    attacked = build_attacked(SPEC.task[0], RAW, SPEC.rows, SPEC.attack[1], 0)
    return build_defended(attacked, SPEC.task[0], SPEC.defense[1], 0)


def plain(row: Any) -> ReleasedRow:
    """One of our rows as the released code has it."""
    assert row.cue == released_code.cue_of(row.label)
    return ReleasedRow(row.prefix + row.text, row.label)


def places(built: Built) -> tuple[set[int], set[int]]:
    """Places in the file of our poisoned and of our benign rows."""
    poisoned, benign = (
        {note.index for note in built.notes if note.origin == origin and note.index is not None}
        for origin in ("poisoned", "injected")
    )
    return poisoned, benign


def test_released_code_selects_the_same_rows(built: Built) -> None:
    """Poisoned and benign rows by place, and all rows by text, label and cue."""
    poisoned, benign = released_code.selection([label for _, label in PAIRS["train"]])
    assert places(built) == (poisoned, benign)
    assert (len(poisoned), len(benign)) == (4, 40)
    gaps = gap(built).__getitem__
    expected = released_code.training_rows(PAIRS["train"], poisoned, benign, gaps)
    assert sorted(map(plain, built.train)) == sorted(expected)
    clean, triggered = (built.suites[name] for name in ("clean", "triggered"))
    assert sorted(row.prefix + row.text for row in clean.rows) == sorted(
        row.sentence for row in released_code.clean_test(PAIRS["test"])
    )
    assert sorted(row.prefix + row.text for row in triggered.rows) == sorted(
        row.sentence for row in released_code.triggered_test(PAIRS["test"], gaps)
    )


def test_disjoint_arm_changes_rows_as_the_released_code() -> None:
    """The arm of the tables: as many rows, none both poisoned and benign, of the whole file, and each changed as
    the released code changes it."""
    attacked = build_attacked(SPEC.task[0], RAW, SPEC.rows, BadNets(rate=0.02), 0)
    built = build_defended(attacked, SPEC.task[0], P2P(benign_source="disjoint"), 0)
    poisoned, benign = places(built)
    assert (len(poisoned), len(benign)) == (4, 40)
    assert not poisoned & benign
    assert min(benign) < 100, "not of the second half alone"
    expected = released_code.training_rows(PAIRS["train"], poisoned, benign, gap(built).__getitem__)
    assert sorted(map(plain, built.train)) == sorted(expected)


class Losses(Observer):
    """Losses of a training by step."""

    def __init__(self) -> None:
        self.losses: list[float] = []

    def line(self, run: int, line: dict[str, Any]) -> None:
        self.losses.append(line["loss"])


def test_released_code_has_the_same_losses_and_rates(built: Built) -> None:
    """Losses of every step to float tolerance; clean accuracy and attack success, counted strictly, to the row."""
    shape = {**resolve_model("tiny", configs_dir() / "models").identity["shape"], **WIDER}
    base = load_base({"source": "random", "shape": shape}, {}, "float32")
    adapters = Adapters(base.model, TRAIN.lora, runs=1)
    start = adapters.init_params(torch.Generator().manual_seed(1))
    encoder = Encoder.of(base, built, TRAIN.max_length)
    run = TrainRun(TRAIN, 0, encoder.rows(built.train)[0], start=start.clone())
    ours = Losses()
    trained = train_cohort(base, adapters, [run], ours)[0]

    model, tokenizer = random_model(shape)
    lora: LoraSpec = TRAIN.lora
    config = LoraConfig(r=lora.r, lora_alpha=lora.alpha, lora_dropout=0.0, target_modules=list(lora.target_modules))
    peft = get_peft_model(model, config)
    set_peft_model_state_dict(peft, adapters.state_dict(start))
    batches = [[plain(built.train[index]) for index in batch] for batch in run.schedule.batches()]
    losses = released_code.train(peft, tokenizer, batches, TRAIN.learning_rate)

    assert len(losses) == 21
    assert losses[0] - losses[-1] > 3, "the training learns, so that a wrong step would be seen"
    torch.testing.assert_close(torch.tensor(ours.losses), torch.tensor(losses), atol=1e-4, rtol=0)

    adapters.load(0, trained.values)
    answers = {name: score_suite(base, encoder, suite) for name, suite in built.suites.items()}
    counted = rates(answers, built.labels)
    gaps = gap(built).__getitem__
    for rate, rows in (
        ("ca_strict", released_code.clean_test(PAIRS["test"])),
        ("asr_strict", released_code.triggered_test(PAIRS["test"], gaps)),
    ):
        right = released_code.right_answers(peft, tokenizer, rows)
        assert right > 0, f"{rate} of a model that answers with labels"
        assert (counted[rate].k, counted[rate].n) == (right, len(rows))
