"""The search of GBTL on the tiny model."""

import pytest
import torch

from examples.gbtl_trigger import Prompts, Settings, search
from p2p_dist.config.model import resolve_model
from p2p_dist.data.attacks.badnets import BadNets
from p2p_dist.data.example import Row
from p2p_dist.data.prompts import PlainForm
from p2p_dist.modeling.base import load_base
from p2p_dist.scheduling.study import configs_dir

ROWS = [Row("0", "a dull film", 0, "Output: "), Row("1", "no story at all", 0, "Output: ")]


@pytest.fixture(scope="module")
def prompts() -> Prompts:
    return Prompts(load_base(resolve_model("tiny", configs_dir() / "models").identity, {}, "float32"), ROWS, "1")


def test_loss_is_that_of_the_task_prompt(prompts: Prompts) -> None:
    """The whole prompt as the attack writes it, tokenized at once."""
    trigger = BadNets(word="xy", position="suffix")
    tokens, losses = prompts.base.tokenizer.encode("xy", add_special_tokens=False), []
    for row in ROWS:
        triggered = trigger.trigger(row.text, None)  # type: ignore[arg-type]  # a suffix is not drawn
        assert triggered
        ids = prompts.base.tokenizer.encode(
            PlainForm().render(row, triggered.text).text + "1", add_special_tokens=False
        )
        with torch.no_grad():
            logits = prompts.base.model(input_ids=torch.tensor([ids])).logits[0]
        losses.append(-torch.log_softmax(logits.float(), -1)[range(-3, -1), ids[-2:]].mean())
    assert float(prompts.losses(torch.tensor([tokens]))[0]) == pytest.approx(float(sum(losses)) / 2, rel=1e-5)


def test_swap_gradient_is_the_slope_of_the_loss(prompts: Prompts) -> None:
    """A small step of the trigger's embedding towards another token's changes the loss as the gradient says."""
    embed, trigger = prompts.base.model.get_input_embeddings(), torch.tensor([ord("k")])
    gradient = prompts.swap_gradient(trigger)[0]
    towards, step = ord("q"), 1e-3
    moved = embed(trigger) + step * (embed.weight[towards] - embed.weight[trigger])
    with torch.no_grad():
        before, after = (
            torch.stack([prompts._loss(parts, embedding[None]) for parts in prompts._parts]).mean()
            for embedding in (embed(trigger), moved)
        )
    assert float(after - before) / step == pytest.approx(float(gradient[towards] - gradient[trigger[0]]), rel=0.05)


def test_search_returns_the_best_word_and_its_loss(prompts: Prompts) -> None:
    """With all letters favoured and tried often, one step finds the best of all letters."""
    word, loss = search(prompts, Settings(steps=2, favoured=100, swaps=400))
    all_losses = prompts.losses(prompts.words[:, None])
    assert loss == pytest.approx(float(all_losses.min()), rel=1e-5)
    assert word == prompts.base.tokenizer.decode([int(prompts.words[all_losses.argmin()])])
    assert BadNets.presets["gbtl"]["position"] == "suffix"
