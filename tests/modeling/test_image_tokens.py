"""Rows with images give the numbers of transformers' own forward pass: its placeholders, positions and pixels."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GenerationConfig
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from examples.drawn_memes import draw
from p2p_dist.assets import file_sha256
from p2p_dist.config.model import resolve_model
from p2p_dist.data import images
from p2p_dist.data.built import Built, LabelSpace
from p2p_dist.data.example import Row
from p2p_dist.errors import UserError
from p2p_dist.evaluation.generation import GREEDY
from p2p_dist.modeling import image_tokens
from p2p_dist.modeling.base import Base, load_base
from p2p_dist.modeling.base_cache import BaseCache
from p2p_dist.modeling.forward import answer_logits
from p2p_dist.modeling.image_guard import require_no_tower
from p2p_dist.modeling.packing import pack
from p2p_dist.modeling.random_init import random_model
from p2p_dist.modeling.tokenization import Encoder
from p2p_dist.scheduling.study import configs_dir

IDENTITY = resolve_model("tiny_vl", configs_dir() / "models").identity
WORDS = ["no", "yes"]
END = 255


@pytest.fixture(scope="module")
def base() -> Base:
    """The tiny Qwen2.5-VL."""
    return load_base(IDENTITY, {}, "float32")


@pytest.fixture(scope="module")
def plain() -> Any:
    """The same model as transformers has it."""
    return random_model(IDENTITY["shape"])[0].eval()


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Row]]:
    """Rows with images of two sizes, one without, and one whose image another has too."""
    folder = tmp_path_factory.mktemp("images")
    draw("red", "circle", (56, 112)).save(folder / "a.png")
    draw("blue", "square", (200, 84)).save(folder / "b.jpg")
    rows = []
    for number, name in enumerate(["a.png", None, "b.jpg", "a.png"]):
        row = Row(str(number), f"caption {number} {'x' * number}", number % 2, "Output: ", image=name)
        rows.append(replace(row, image_sha256=file_sha256(folder / name)) if name else row)
    return folder, rows


def test_a_job_leaves_no_images_to_the_next(rows: tuple[Path, list[Row]]) -> None:
    """The base stays, and the next job has other rows."""
    cache = BaseCache()
    for _ in range(2):
        base = cache.load(IDENTITY, {}, "float32")
        encoder_of(base, rows).rows(rows[1])
        assert image_tokens.has_image_tokens(base.model)
        assert cache.look_over()
        assert not image_tokens.has_image_tokens(base.model)


def encoder_of(base: Base, rows: tuple[Path, list[Row]], max_length: int = 128, tokens: int = 16) -> Encoder:
    built = Built(rows[1], [], {}, LabelSpace(WORDS, 2), [], image_folder=str(rows[0]))
    return Encoder.of(base, built, max_length, tokens)


def own_inputs(plain: Any, folder: Path, row: Row, ids: list[int]) -> dict[str, torch.Tensor]:
    """Arguments of transformers' forward pass for our ids of a row."""
    if row.image is None:
        return {"input_ids": torch.tensor([ids])}
    config = plain.config
    processor = Qwen2VLImageProcessorPil(size={"shortest_edge": 4 * 784, "longest_edge": 16 * 784})
    prepared = processor(images=[images.read(folder, row.image, None)], return_tensors="pt")
    count = int(prepared["image_grid_thw"].prod()) // 4
    assert ids[0] == config.vision_start_token_id
    assert ids[count + 1] == config.vision_end_token_id
    assert all(id_ >= config.text_config.vocab_size for id_ in ids[1 : count + 1])
    assert all(id_ < config.text_config.vocab_size for id_ in ids[count + 1 :])
    input_ids = torch.tensor([[ids[0], *[config.image_token_id] * count, *ids[count + 1 :]]])
    return {"input_ids": input_ids, **prepared, "mm_token_type_ids": (input_ids == config.image_token_id).int()}


def own_logits(plain: Any, folder: Path, row: Row, ids: list[int]) -> torch.Tensor:
    return plain(**own_inputs(plain, folder, row, ids), use_cache=False).logits[0, -1].detach()


def test_packed_rows_with_images_match_transformers(base: Base, plain: Any, rows: tuple[Path, list[Row]]) -> None:
    """Two runs, each with images of two sizes and a row without one."""
    encoded, cut = encoder_of(base, rows).rows(rows[1])
    assert cut == 0
    expected = [own_logits(plain, rows[0], row, one.ids) for row, one in zip(rows[1], encoded, strict=True)]
    assert (expected[0] - expected[3]).abs().max() > 1e-3
    batch = pack([encoded, encoded[::-1]])
    ours = answer_logits(base.model, batch.ids, batch.positions, batch.packed, batch.answers)
    ends = torch.tensor([len(one.targets) for one in [*encoded, *encoded[::-1]]]).cumsum(0) - 1
    torch.testing.assert_close(ours[ends], torch.stack([*expected, *expected[::-1]]), atol=2e-5, rtol=1e-4)


def test_rotary_positions_are_those_of_transformers(base: Base, plain: Any, rows: tuple[Path, list[Row]]) -> None:
    encoded, _ = encoder_of(base, rows).rows(rows[1])
    batch = pack([encoded])
    ours = image_tokens.rotary_positions(base.model, batch.ids, batch.positions)
    for row, one, (start, length) in zip(rows[1], encoded, batch.packed.places, strict=True):
        inputs = own_inputs(plain, rows[0], row, one.ids)
        expected = torch.arange(length).expand(3, 1, -1)
        if row.image:
            expected, _ = plain.model.get_rope_index(
                inputs["input_ids"], inputs["mm_token_type_ids"], image_grid_thw=inputs["image_grid_thw"]
            )
        assert torch.equal(ours[:, 0, start : start + length], expected[:, 0])


def test_cut_rows_keep_their_image(base: Base, rows: tuple[Path, list[Row]]) -> None:
    encoder = encoder_of(base, rows, max_length=40)
    long = replace(rows[1][0], text="word " * 30)
    (uncut,), (short,) = encoder_of(base, rows, max_length=400).rows([long])[0], encoder.rows([long])[0]
    assert len(short.ids) <= 40
    block = uncut.ids.index(base.model.config.vision_end_token_id) + 1
    assert short.ids[:block] == uncut.ids[:block]
    with pytest.raises(UserError, match=r"E224.*max_length is 12"):
        encoder_of(base, rows, max_length=12).rows([long])


def test_images_changed_or_unread_are_refused(base: Base, rows: tuple[Path, list[Row]], tmp_path: Path) -> None:
    changed = replace(rows[1][0], image_sha256="0" * 64)
    with pytest.raises(UserError, match=r"E226.*changed since"):
        encoder_of(base, rows).rows([changed])
    text = load_base(resolve_model("tiny", configs_dir() / "models").identity, {}, "float32")
    with pytest.raises(UserError, match=r"E227.*qwen3 cannot read"):
        encoder_of(text, rows)
    with pytest.raises(UserError, match=r"E297.*qwen2_5_vl has a vision tower"):
        require_no_tower(base.model, is_full=False)
    with pytest.raises(UserError, match=r"E297.*all weights are to be trained"):
        require_no_tower(base.model, is_full=True)
    require_no_tower(text.model, is_full=True)
    with pytest.raises(UserError, match=r"E227"):
        Encoder(base.tokenizer, WORDS, 128).rows(rows[1])


def test_answers_with_images_are_those_of_generate(base: Base, plain: Any, rows: tuple[Path, list[Row]]) -> None:
    """A batch with images of two sizes and a row without one, against `generate` on each row alone."""
    written = [replace(row, response="x") for row in rows[1]]
    prompts = encoder_of(base, rows).prompts(written)
    ours = [answer.ids for answer in GREEDY.write(base, prompts, 5, END)]
    for row, ids, answer in zip(written, prompts, ours, strict=True):
        settings = GenerationConfig(max_new_tokens=5, do_sample=False, eos_token_id=END, pad_token_id=END)
        plain.generation_config = GenerationConfig()
        generated = plain.generate(**own_inputs(plain, rows[0], row, ids), generation_config=settings)
        assert answer == generated[0, len(ids) :].tolist()


def test_guard_refuses_a_base_with_flat_positions(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without time, height and width transformers computes other numbers, and says nothing."""
    monkeypatch.setenv("P2P_DIST_CACHE", str(tmp_path))
    monkeypatch.setattr(image_tokens, "rotary_positions", lambda model, ids, positions: positions)
    with pytest.raises(UserError, match=r"E293.*qwen2_5_vl"):
        load_base(IDENTITY, {}, "float32")
