"""Rewrites of texts by a model: those of transformers' own decoding, one instruction after the other."""

from copy import deepcopy
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from p2p_dist.config.score_methods import TextRewrites
from p2p_dist.config.study import TrainSpec
from p2p_dist.data.built import HELD_OUT, Built, LabelSpace, Suite
from p2p_dist.data.example import Row
from p2p_dist.data.paraphrases import key_of, scored_rewrites
from p2p_dist.evaluation.generation import padded_answers, plain_attention
from p2p_dist.evaluation.rewriting import prompts_of, rewrites_of
from p2p_dist.modeling.base import Base, load_base
from p2p_dist.results.scorestore import Unfinished
from p2p_dist.scores import rewrites
from p2p_dist.scores.context import Context
from p2p_dist.scores.rewrites import score
from tests.chat_templates import CHATML
from tests.deployment.small_tokenizer import merging_tokenizer
from tests.training.test_cohort import IDENTITY

TEXTS = ("a fine film", "so dull it hurts", "a fine film")
NEW = 8


@pytest.fixture
def base() -> Base:
    """The tiny model, whose end token is one that it writes within a few tokens."""
    base = load_base(IDENTITY, {}, "float32")
    with plain_attention(base.model):
        (answer,) = padded_answers(base.model, prompts_of(base, TEXTS[:1], "Say it."), NEW, -1)
    base.tokenizer.eos_token_id = answer[3]
    return base


def ignored() -> None:
    """No call."""


def test_rewrites_are_those_of_plain_decoding(base: Base) -> None:
    """The rewrite is the first line of the decoded answer; one that does not end has failed."""
    end = base.tokenizer.eos_token_id
    prompts = prompts_of(base, TEXTS, "Say it.")
    assert str(base.tokenizer.decode(prompts[0])) == "Say it.\n\nSentence: a fine film\nRewritten: "
    with plain_attention(base.model):
        expected = [ids for prompt in prompts for ids in padded_answers(base.model, [prompt], NEW, end)]
    rewritten = rewrites_of(base, TEXTS, ("Say it.",), NEW, ignored)
    for ids, text in zip(expected, rewritten, strict=True):
        line = base.tokenizer.decode(ids, skip_special_tokens=True).strip().splitlines()
        assert text == (line[0].strip() if end in ids and line else None)
    assert rewritten[0] is not None


def test_text_that_is_a_control_token_is_characters() -> None:
    """The end of the turn is the template's own, also where the text spells the same."""
    tokenizer = deepcopy(merging_tokenizer())
    base = cast(Base, SimpleNamespace(tokenizer=tokenizer))
    tokenizer.chat_template = CHATML
    (end,) = tokenizer.encode("<|im_end|>", add_special_tokens=False)
    (harmless,), (prompt,) = (prompts_of(base, [text], "Say it.") for text in ("a film", "<|im_end|>"))
    assert prompt[prompt.index(end) :] == harmless[harmless.index(end) :]


def test_rewrites_by_two_instructions_are_chained(base: Base) -> None:
    """The second instruction is about the answer to the first; a text that has failed stays failed."""
    first = rewrites_of(base, TEXTS, ("Say it.",), NEW, ignored)
    again = partial(rewrites_of, base, instructions=("Again.",), new=NEW, on_row=ignored)
    expected = [None if text is None else again([text])[0] for text in first]
    assert rewrites_of(base, TEXTS, ("Say it.", "Again."), NEW, ignored) == expected


def test_score_resumes_behind_the_last_part(base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stopped stage keeps its finished parts, and ends with the lines of one that was not stopped."""
    monkeypatch.setattr(rewrites, "PART", 2)
    rows = [Row(str(number), f"film {number}", 0, "Output: ") for number in range(5)]
    built = Built([], [], {"clean": Suite(rows, 0, triggered=False)}, LabelSpace(["0", "1"], 2), [])
    method = TextRewrites(sets=("clean",), instructions=("Say it.", "Again."), max_new_tokens=NEW)
    unfinished = Unfinished(tmp_path / "unfinished.json")

    def stop(done: int, total: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    context = Context(base, None, TrainSpec(), 0, built)
    with pytest.raises(KeyboardInterrupt):
        score(replace(context, on_progress=stop, unfinished=unfinished), method)
    assert len(unfinished.read()) == 2
    counts: list[int] = []
    resumed = replace(context, on_progress=lambda done, total: counts.append(done), unfinished=unfinished)
    assert score(resumed, method) == score(context, method)
    assert min(counts) >= 2
    (tmp_path / "unfinished.json").write_text("{")
    assert unfinished.read() == {}


def test_score_has_a_line_for_each_row_but_held_out_ones(base: Base) -> None:
    """Equal texts are rewritten once, held-out rows never, and only accepted rewrites count."""
    rows = [Row(str(number), text, 0, "Output: ") for number, text in enumerate(TEXTS)]
    suites = {"clean": Suite(rows, 0, triggered=False), HELD_OUT: Suite(rows[:1], 0, triggered=False)}
    progress: list[tuple[int, int]] = []
    built = Built([], [], suites, LabelSpace(["0", "1"], 2), [])
    context = Context(base, None, TrainSpec(), 0, built, lambda done, of: progress.append((done, of)))
    method = TextRewrites(sets=("suites",), instructions=("Say it.",), max_new_tokens=NEW)
    lines = score(context, method)
    assert [(line["set"], line["id"]) for line in lines] == [("clean", str(number)) for number in range(3)]
    assert progress[-1] == (2, 2)
    stored: dict[str, Any] = {"clean": {str(line["id"]): line for line in lines}}
    assert key_of(TEXTS[0]) in scored_rewrites(stored)
    refused = score(context, method.model_copy(update={"accept": r"\A\Z"}))
    assert scored_rewrites({"clean": {str(line["id"]): dict(line) for line in refused}}) == {}
