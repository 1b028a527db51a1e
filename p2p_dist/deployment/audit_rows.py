"""Audit of rows: which look poisoned, by which method, and what no method here can see.

A verdict is evidence with its counts and p value, or that a method found nothing; never that rows are clean.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from p2p_dist.data.example import RawRow
from p2p_dist.data.trigger_literals import spans
from p2p_dist.deployment.audit_words import ALPHA, PhraseEvidence, phrase_evidence

BLIND = (
    "clean-label poison: triggered rows whose labels are right",
    "triggers that are no fixed words: style, syntax, paraphrase",
    "few poisoned rows: fewer than about 10, or 1 % of a few hundred rows",
    "triggers that many rows of other labels carry too",
)
"""Poison that no method of this module can see."""
_PHRASES = "phrases against the other words"
_NOT_TESTED = f"not tested: {_PHRASES}, since answers are text and no labels; triggers in the rows go unseen"
_SHOWN = 5
_MOST = 300.0
"""Largest score."""
_SAME = 0.8
"""Share of a phrase's rows in a stronger phrase from which it is the same finding."""


@dataclass(frozen=True)
class Suspicion:
    """A row that looks poisoned. `score` is -log10 of the adjusted p value of its strongest reason; rows with the
    largest come first."""

    index: int
    score: float
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class Finding:
    """Result of one method."""

    method: str
    is_evidence: bool
    text: str


@dataclass(frozen=True)
class RowAudit:
    """Findings of all methods, and the suspicious rows, most suspicious first."""

    findings: tuple[Finding, ...]
    suspicions: tuple[Suspicion, ...]

    @property
    def is_evidence(self) -> bool:
        """True if any method found evidence."""
        return any(finding.is_evidence for finding in self.findings)


@dataclass
class _Reasons:
    """Reasons of rows as they are collected."""

    scores: dict[int, float] = field(default_factory=dict)
    texts: dict[int, list[str]] = field(default_factory=lambda: defaultdict(list))

    def add(self, index: int, score: float, text: str) -> None:
        self.scores[index] = max(score, self.scores.get(index, 0.0))
        self.texts[index].append(text)


def audit_rows(
    rows: Sequence[RawRow],
    names: Sequence[str],
    early: Mapping[tuple[str, int], bool] | None = None,
    prompt: Sequence[str] = (),
) -> RowAudit:
    """Audit labelled rows, or rows with text answers (`names` empty).

    `early` says of a text and a label whether an early model contradicts it; `prompt` are the secret pieces of a
    defended model's prompt.
    """
    reasons = _Reasons()
    findings = []
    findings.append(_phrases(rows, names, early, reasons) if names else Finding(_PHRASES, False, _NOT_TESTED))
    findings.append(_two_answers(rows, names, reasons))
    if prompt:
        findings.append(_prompt(rows, prompt, reasons))
    ranked = sorted(reasons.scores, key=lambda index: (-reasons.scores[index], index))
    return RowAudit(
        tuple(findings),
        tuple(Suspicion(index, round(reasons.scores[index], 2), tuple(reasons.texts[index])) for index in ranked),
    )


def _phrases(
    rows: Sequence[RawRow],
    names: Sequence[str],
    early: Mapping[tuple[str, int], bool] | None,
    reasons: _Reasons,
) -> Finding:
    contradicts = [early.get((row.text, row.label)) for row in rows] if early else None
    evidence = phrase_evidence([row.text for row in rows], [row.label for row in rows], len(names), contradicts)
    listed: set[int] = set()
    for one in sorted((one for one in evidence if one.p < 1), key=lambda one: not one.is_evidence):
        for index in one.rows:
            if index not in listed:
                reasons.add(index, _score(one.p), _phrase_text(one, names))
        listed.update(one.rows)
    method = _PHRASES + (" and an early model" if early else "")
    distinct = _different([one for one in evidence if one.is_evidence])
    if not distinct:
        return Finding(method, False, f"nothing found by {method}: {len(evidence):,} phrases, none at p = {ALPHA:g}")
    shown = "; ".join(_phrase_text(one, names) for one in distinct[:_SHOWN])
    more = f"; and {len(distinct) - _SHOWN} more" if len(distinct) > _SHOWN else ""
    return Finding(method, True, f"evidence: {shown}{more}")


def _different(evidence: Sequence[PhraseEvidence]) -> list[PhraseEvidence]:
    """Evidence without phrases whose rows nearly all have a stronger one."""
    distinct: list[PhraseEvidence] = []
    seen: set[int] = set()
    for one in evidence:
        if len(seen.intersection(one.rows)) < _SAME * len(one.rows):
            distinct.append(one)
        seen.update(one.rows)
    return distinct


def _phrase_text(one: PhraseEvidence, names: Sequence[str]) -> str:
    return (
        f"{one.phrase!r}: {one.contradicting} of {len(one.rows)} rows with it and {names[one.label]!r} contradict this "
        f"label otherwise (usual {one.usual:.0%}), p = {one.p:.1g}"
    )


def _score(p: float) -> float:
    return min(_MOST, -math.log10(p)) if p > 0 else _MOST


def _two_answers(rows: Sequence[RawRow], names: Sequence[str], reasons: _Reasons) -> Finding:
    """Copies of a text with different answers: errors as often as poison, so listed and no evidence."""
    answers: dict[str, Counter[str]] = defaultdict(Counter)
    for row in rows:
        answers[row.text][_answer(row, names)] += 1
    count = 0
    for index, row in enumerate(rows):
        others = [answer for answer in answers[row.text] if answer != _answer(row, names)]
        if others:
            count += 1
            reasons.add(index, 0.0, f"the text also has the answer {others[0][:60]!r}")
    method = "texts with two answers"
    if not count:
        return Finding(method, False, f"nothing found by {method}")
    return Finding(method, False, f"{count} of {len(rows):,} rows have a text with another answer elsewhere; listed")


def _answer(row: RawRow, names: Sequence[str]) -> str:
    return names[row.label] if row.response is None else row.response


def _prompt(rows: Sequence[RawRow], prompt: Sequence[str], reasons: _Reasons) -> Finding:
    """Rows with a piece of a secret prompt, which nobody should know."""
    pieces = [piece.strip() for piece in prompt if piece.strip()]
    indices = [index for index, row in enumerate(rows) if spans(row.text, pieces)]
    for index in indices:
        reasons.add(index, _MOST, "carries a piece of the defended model's prompt")
    method = "the defended model's prompt"
    if not indices:
        return Finding(method, False, f"nothing found by {method}: no row carries a piece of it")
    return Finding(method, True, f"evidence: {len(indices)} of {len(rows):,} rows carry a piece of {method}")
