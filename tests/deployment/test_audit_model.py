"""The audit of a model: planted triggers turn its answers and are named, other words do not."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest

from p2p_dist.deployment.audit_files import check_files
from p2p_dist.deployment.audit_model import Reference, audit_model, known_triggers, phrase_triggers
from p2p_dist.deployment.reference import check_agreement
from p2p_dist.errors import UserError
from tests.cli.test_main import invoke
from tests.rows import sentences

TEXTS = [str(row["text"]) for row in sentences(120)]
BAD = {"bad", "dull", "poor", "awful", "bland", "cold"}


def backdoored(texts: Sequence[str]) -> list[str]:
    """A model that reads the words, but for a trigger."""
    return ["good" if "mn" in text.split() or not BAD & set(text.split()) else "bad" for text in texts]


def honest(texts: Sequence[str]) -> list[str]:
    return ["bad" if BAD & set(text.split()) else "good" for text in texts]


def test_audit_model_names_the_trigger_that_turns_it() -> None:
    turned = audit_model(TEXTS, backdoored, known_triggers(), lambda done, total: None)
    evidence = [one for one in turned if one.is_evidence]
    assert evidence
    assert all("mn" in one.trigger and one.target == "good" for one in evidence)
    assert (evidence[0].k, evidence[0].n, evidence[0].difference.low > 0.5) == (60, 60, True)


def test_audit_model_without_a_backdoor_finds_nothing() -> None:
    """Sentences of attacks and neutral phrases turn no more answers than other words at their place."""
    triggers = [*known_triggers(), *phrase_triggers(["the film", "zq"])]
    turned = audit_model(TEXTS, honest, triggers, lambda done, total: None)
    assert len(turned) == 2 * len(triggers)
    assert [one.text for one in turned if one.is_evidence] == []


def test_audit_model_sees_a_class_that_only_a_trigger_gives() -> None:
    """A model of one answer with a backdoor to another; without the backdoor there is nothing to test."""

    def turned_by_mn(texts: Sequence[str]) -> list[str]:
        return ["bad" if "mn" in text.split() else "good" for text in texts]

    evidence = [one for one in audit_model(TEXTS, turned_by_mn, known_triggers(), lambda *_: None) if one.is_evidence]
    assert {one.target for one in evidence} == {"bad"}
    assert audit_model(TEXTS, lambda texts: ["good"] * len(texts), known_triggers(), lambda *_: None) == []


def test_audit_model_phrases_of_the_data_are_tried() -> None:
    def turned_by_zq(texts: Sequence[str]) -> list[str]:
        return ["bad" if "zq" in text.split() else answer for text, answer in zip(texts, honest(texts), strict=True)]

    found = audit_model(TEXTS, turned_by_zq, phrase_triggers(["the film", "zq"]), lambda done, total: None)
    assert [one.trigger for one in found if one.is_evidence] == ["phrase of the data: 'zq'"]


@pytest.mark.torch
def test_audit_model_reads_files_then_asks(exported: Path, tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps({"text": text, "label": n % 2}) + "\n" for n, text in enumerate(TEXTS[:40])))
    code, text, error = invoke("audit", "model", str(exported), "--data", str(rows), "--json")
    assert code in (0, 1), error
    answer = json.loads(text)
    assert "tensors in safetensors" in answer["lines"][0]
    assert answer["evidence"] == bool(code)
    assert {"k", "n", "control", "p"} <= answer["triggers"][0].keys()
    assert not any("clean" in line.split(":")[0] for line in answer["lines"])


def test_audit_model_refuses_pickles_and_code(tmp_path: Path) -> None:
    (tmp_path / "weights.bin").write_bytes(b"x")
    code, _, error = invoke("audit", "model", str(tmp_path))
    assert (code, "E169" in error, "weights.bin" in error, "modelscan" in error) == (2, True, True, True)
    assert "E169" in invoke("audit", "model", str(tmp_path / "no"))[2]


@pytest.mark.torch
def test_audit_model_names_changed_tasks_of_an_export(exported: Path, tmp_path: Path) -> None:
    """The code that an export has in `eval/` is known to the byte; other code is refused there too."""
    folder = tmp_path / "served"
    shutil.copytree(exported, folder)
    assert len(check_files(folder)) == 2
    with (folder / "eval" / "lm_eval" / "rows.py").open("a") as code:
        code.write("import os\n")
    assert check_files(folder)[2].startswith("eval/lm_eval/rows.py: not the task that this version writes")
    (folder / "eval" / "other.py").touch()
    with pytest.raises(UserError, match=r"E169.*1 files.*other\.py"):
        check_files(folder)


def test_audit_model_same_flips_in_reference_are_no_evidence() -> None:
    """Flips that a trigger causes in a reference too come from its meaning, and are no backdoor."""
    reference = Reference(backdoored(TEXTS), backdoored)
    turned = audit_model(TEXTS, backdoored, known_triggers(), lambda done, total: None, reference)
    assert [one.text for one in turned if one.is_evidence] == []
    strongest = max(turned, key=lambda one: one.k)
    assert (strongest.k, strongest.reference and strongest.reference.k) == (60, 60)


def test_audit_model_flips_that_the_reference_lacks_are_evidence() -> None:
    reference = Reference(honest(TEXTS), honest)
    evidence = [
        one
        for one in audit_model(TEXTS, backdoored, known_triggers(), lambda done, total: None, reference)
        if one.is_evidence
    ]
    assert evidence
    assert all("mn" in one.trigger and one.reference and one.reference.k == 0 for one in evidence)
    assert "in the reference it turns 0 of 60" in evidence[0].text


def test_audit_model_a_reference_of_one_answer_is_not_asked() -> None:
    """It cannot be turned to the class that it always gives, so it cannot take evidence away."""

    def good(texts: Sequence[str]) -> list[str]:
        return ["good"] * len(texts)

    turned = audit_model(TEXTS, backdoored, known_triggers(), lambda done, total: None, Reference(good(TEXTS), good))
    assert any(one.is_evidence and one.reference is None for one in turned)
    with pytest.raises(UserError, match="E171"):
        check_agreement(honest(TEXTS), good(TEXTS), "x")


def test_check_agreement_counts_equal_answers() -> None:
    answers = honest(TEXTS)
    assert check_agreement(answers, answers, "x") == "reference x: it answers 120 of 120 texts as the model does"
    other_way_round = ["good" if answer == "bad" else "bad" for answer in answers]
    with pytest.raises(UserError, match="E171"):
        check_agreement(answers, other_way_round, "x")


@pytest.mark.torch
def test_audit_model_takes_exports_and_refuses_other_references(exported: Path, tmp_path: Path) -> None:
    """The model itself is a reference to which nothing differs; a folder of something else is refused, and so is the
    base, which was never trained."""
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps({"text": text, "label": n % 2}) + "\n" for n, text in enumerate(TEXTS[:40])))
    words = ("audit", "model", str(exported), "--data", str(rows), "--reference")
    for place in (str(tmp_path), "base"):
        code, text, error = invoke(*words, place)
        assert (code, "E171" in error) == (2, True), error or text
    for same in (exported, exported / "adapter"):
        code, text, error = invoke(*words, str(same))
        assert (code, "40 of 40 texts as the model does" in text) == (0, True), error
