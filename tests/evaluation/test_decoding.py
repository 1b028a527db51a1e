"""Generated answers are those of transformers and PEFT, row by row and without padding."""

from pathlib import Path

import pytest
import torch
from peft import PeftModel

from p2p_dist.config import families
from p2p_dist.config.model import resolve_model
from p2p_dist.config.study import LoraSpec
from p2p_dist.data.built import Suite
from p2p_dist.data.example import NO_LABEL, Row
from p2p_dist.errors import UserError
from p2p_dist.evaluation import generation
from p2p_dist.evaluation.generation import generate_suite
from p2p_dist.evaluation.label_scoring import score_suite
from p2p_dist.modeling.base import Base, load_base
from p2p_dist.modeling.lora import Adapters
from p2p_dist.modeling.random_init import random_model
from p2p_dist.modeling.tokenization import Encoder
from p2p_dist.planning import inference
from p2p_dist.scheduling.study import configs_dir
from p2p_dist.training.adapter_io import load_adapter, save_adapter

IDENTITY = resolve_model("tiny", configs_dir() / "models").identity
LLAMA = {**IDENTITY, "shape": {**IDENTITY["shape"], "architecture": "llama"}}
ROWS = [
    Row(str(at), f"count to {at} " + "and on " * (at % 4), NO_LABEL, "Answer: ", "Text: ", response=str(at))
    for at in range(9)
]
SUITE = Suite(ROWS, 0, triggered=False)


def tuned(identity: object, folder: Path) -> Base:
    """A base with a random adapter, which also lies in `folder`."""
    base = load_base(identity, {}, "float32")  # type: ignore[arg-type]
    adapters = Adapters(base.model, LoraSpec(r=4, alpha=8), 1)
    save_adapter(folder, adapters, torch.randn(adapters.size, generator=torch.Generator().manual_seed(3)) * 0.3, "tiny")
    load_adapter(folder, adapters, 0)
    return base


def one_by_one(identity: dict[str, object], folder: Path, tokens: int) -> list[str]:
    model, tokenizer = random_model(identity["shape"])  # type: ignore[arg-type]
    theirs = PeftModel.from_pretrained(model, folder).eval()
    found = []
    for row in ROWS:
        ids = torch.tensor([tokenizer(f"{row.prefix}{row.text}\nAnswer:")["input_ids"]])
        end = tokenizer.eos_token_id
        out = theirs.generate(input_ids=ids, max_new_tokens=tokens, do_sample=False, eos_token_id=end, pad_token_id=end)
        found.append(tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True).strip())
    return found


@pytest.mark.parametrize("identity", [IDENTITY, LLAMA], ids=["qwen3", "llama"])
def test_batches_say_what_each_row_says_alone(
    identity: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = tuned(identity, tmp_path)
    base.model.generation_config.repetition_penalty = 5.0
    monkeypatch.setattr(inference, "TOKENS_AT_ONCE", 200)
    monkeypatch.setattr(inference, "CACHE_BYTES", 0)
    encoder = Encoder(base.tokenizer, [], 256)
    ticks: list[int] = []
    found = generate_suite(base, encoder, SUITE, 12, ticks.append)
    assert [row.text for row in found] == one_by_one(identity, tmp_path, 12)
    assert [(row.id, row.reference) for row in found] == [(row.id, row.response) for row in ROWS]
    assert len(ticks) > 2
    assert ticks[-1] == len(ROWS)
    assert base.model.generation_config.repetition_penalty == 5.0
    labels = Suite([Row("a", "text", 0, "Answer: ")], 0, triggered=False)
    assert score_suite(base, Encoder(base.tokenizer, ["0", "1"], 64), labels), "the model is as it was"


def test_an_answer_ends_at_the_end_token(tmp_path: Path) -> None:
    base = tuned(IDENTITY, tmp_path)
    prompts = Encoder(base.tokenizer, [], 256).prompts(ROWS[:4])
    whole = [row.ids for row in generation.GREEDY.write(base, prompts, 12, end=255)]
    end = whole[1][4]
    short = [row.ids for row in generation.GREEDY.write(base, prompts, 12, end)]
    assert all(len(row) == 12 for row in whole)
    assert len({len(row) for row in short}) > 1, "rows end at different places"
    assert short == [row[: row.index(end) + 1] if end in row else row for row in whole]


def test_prompts_are_those_of_training() -> None:
    """Byte by byte what stands before the answer in training, whatever the answer begins with, cut or not."""
    _, tokenizer = random_model(IDENTITY["shape"])
    for limit in (200, 34):
        encoder = Encoder(tokenizer, [], limit)
        for row, ids in zip(ROWS, encoder.prompts(ROWS), strict=True):
            (learned,), _ = encoder.rows([row])
            answer = tokenizer.decode(learned.targets)
            assert answer == f" {row.response}<|end|>"
            assert tokenizer.decode(learned.ids) == tokenizer.decode(
                [*learned.ids[: 1 - len(learned.targets)], *learned.targets[:-1]]
            )
            if limit == 200:
                assert learned.ids[: 1 - len(learned.targets)] == ids
            else:
                assert max(len(learned.ids), len(ids)) <= limit
                assert tokenizer.decode(ids).endswith("\nAnswer:")


def test_require_text_refuses_a_family_that_writes_wrongly() -> None:
    families.require_text("llama")
    with pytest.raises(UserError, match=r"E293.*recurrent_gemma"):
        families.require_text("recurrent_gemma")
