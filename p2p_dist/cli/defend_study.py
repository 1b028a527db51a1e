"""The study that `p2p-dist defend` writes: the rows as they are and with a simulated attack, undefended and defended.
Pure."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from p2p_dist.cli.data_profile import Profile
from p2p_dist.cli.study_template import max_length, quoted, study_name, task_lines, test_rows
from p2p_dist.deployment.secret_prompt import SecretPrompt
from p2p_dist.errors import user_error

SCREENED_RATIO, TRUSTED_RATIO = 0.4, 0.2
"""Benign rows as a share of the training rows that were measured (docs/findings.md)."""
_LEAST_TRUSTED = 0.1
"""Smallest share of trusted rows that is accepted."""
_LEAST_OF_CLASS = 10
"""Fewest rows of a class to draw benign ones from."""
_TRUSTED_SHARE = 0.5
"""Share of a class that a screening trusts (`Screening.trusted_share`), or of all rows with text answers."""
_RATE, _SENTENCE = 0.05, "I watched this 3D movie"


@dataclass(frozen=True)
class Wish:
    """Choices of the user, beside the rows."""

    model: str
    in_weights: bool
    simulate: bool

    @property
    def defense(self) -> str:
        """Name of the defense."""
        return "p2p_in_weights" if self.in_weights else "p2p"


@dataclass(frozen=True)
class Benign:
    """Benign rows of the defense: their ratio to the training rows and, with a file of trusted rows, its rows."""

    ratio: float
    trusted: int | None = None


def choose_benign(rows: Profile, trusted: int | None) -> Benign:
    """The ratio of benign rows that these rows allow; `trusted` is the number of checked rows, None for none.

    Raises UserError E164 for too few rows.
    """
    train = rows.rows["train"] - (0 if rows.has_test else test_rows(rows)) + (trusted or 0)
    if trusted is not None:
        return Benign(_trusted_ratio(trusted, train), trusted)
    if rows.answers_are_text:
        return Benign(SCREENED_RATIO)
    share = 1 if rows.has_test else Fraction(train, rows.rows["train"])
    label, smallest = min(((name, int(count * share)) for name, count in rows.labels.items()), key=lambda one: one[1])
    if _TRUSTED_SHARE * smallest < _LEAST_OF_CLASS:
        least = math.ceil(_LEAST_OF_CLASS / _TRUSTED_SHARE)
        what = f"class {label!r} has {smallest} training rows; a screening needs {least} or more of each"
        raise user_error("E164", what, str(rows.place), "add rows, leave the class out, or set --trusted FILE")
    return Benign(min(SCREENED_RATIO, _floor(_TRUSTED_SHARE * smallest * len(rows.labels) / train)))


def study_text(rows: Profile, wish: Wish, benign: Benign, prompt: SecretPrompt, source: Path) -> str:
    """Text of the study file."""
    return "\n".join([*_head(rows, wish), *task_lines(rows, source), *_rest(rows, wish, benign, prompt), ""])


def remarks(rows: Profile, wish: Wish, benign: Benign) -> list[str]:
    """Sentences on what was chosen and why."""
    if benign.trusted is not None:
        lines = [f"{benign.trusted:,} trusted rows, of which the defense makes benign ones (ratio {benign.ratio:g})"]
        measured = TRUSTED_RATIO
    else:
        who = "three short trainings choose"
        if rows.answers_are_text:
            who = "the untrained model chooses, by how much an answer depends on its prompt,"
        lines = [f"nobody checked any row: {who} the benign rows (ratio {benign.ratio:g})"]
        if rows.answers_are_text:
            lines.append("how well rows so chosen protect was measured once, on 400 summaries (docs/findings.md)")
        if rows.numeric_answers:
            lines.append(
                "where it sees too little of that, as in bare numbers, the defended runs fail: check rows then"
            )
        measured = SCREENED_RATIO
    if benign.ratio < measured:
        lines.append(f"a smaller ratio than the {measured:g} that was measured (docs/findings.md): expect less")
    if wish.in_weights:
        lines.append("in the weights: served without a prompt; measured on few rows so far (docs/findings.md)")
    return lines


def _trusted_ratio(trusted: int, train: int) -> float:
    ratio = min(TRUSTED_RATIO, _floor(trusted / train))
    if ratio < _LEAST_TRUSTED:
        what = f"{trusted:,} trusted rows of {train:,} training rows are less than {_LEAST_TRUSTED:.0%}"
        fix = f"check {math.ceil(TRUSTED_RATIO * train):,} rows, or leave --trusted out: a screening needs none"
        raise user_error("E164", what, "--trusted", fix)
    return ratio


def _floor(ratio: float) -> float:
    """The ratio rounded down to three digits."""
    return math.floor(1000 * ratio) / 1000


def _head(rows: Profile, wish: Wish) -> Iterator[str]:
    yield f"# Written by `p2p-dist defend` for {rows.place.name}. The benign trigger and the answer cue are secret."
    yield f"name: {quoted(study_name(rows.place.resolve().stem))}"
    yield f"description: {quoted(f'{wish.defense} on {rows.place.name}, and on a copy with a simulated attack')}"


def _rest(rows: Profile, wish: Wish, benign: Benign, prompt: SecretPrompt) -> Iterator[str]:
    yield f"model: {quoted(wish.model)}"
    yield "attack:"
    yield "  - none"
    if wish.simulate:
        yield "  - name: addsent   # a copy of the rows, attacked on purpose: it measures what the defense does"
        yield f"    sentence: {quoted(_SENTENCE)}"
        yield f"    rate: {_RATE}"
        yield f"    {_target(rows)}"
    yield "defense:"
    yield "  - none"
    yield f"  - name: {wish.defense}"
    if wish.in_weights:
        if rows.answers_are_text:
            yield f"    rule: {'agree' if rows.numeric_answers else 'rewrite'}"
        yield "    p2p:"
    indent = "      " if wish.in_weights else "    "
    yield from (f"{indent}{key}: {value}" for key, value in _options(rows, benign, prompt).items())
    yield "seed: 0"
    yield "rows:"
    yield "  balanced: false"
    if not rows.has_test:
        yield f"  test: {test_rows(rows)}"
    if benign.trusted is not None:
        yield f"  reserve: {benign.trusted}"
    yield "train:"
    yield "  learning_rate: 1e-3"
    yield "  num_train_epochs: 2"
    yield "  global_batch: 32"
    beside = len(prompt.trigger) + len(prompt.cue) + (len(_SENTENCE) if wish.simulate else 0)
    yield f"  max_length: {max_length(rows, beside)}"
    yield "  lora: {r: 16, alpha: 16, dropout: 0.1}"


def _options(rows: Profile, benign: Benign, prompt: SecretPrompt) -> Mapping[str, str]:
    """Options of P2P as they stand in the file."""
    options = {"benign_source": "clean_reserved" if benign.trusted is not None else "screened"}
    if benign.trusted is None and not rows.answers_are_text:
        options["screening"] = "{draws: 3}"
    options |= {"ratio": f"{benign.ratio:g}", "benign_trigger": quoted(prompt.trigger)}
    if not rows.answers_are_text:
        return options | {"answer_cue": quoted(prompt.cue)}
    return options | {"response_prefix": quoted(prompt.cue)}


def _target(rows: Profile) -> str:
    """The simulated attacker's goal: the rarest class, since rows of all others can be poisoned."""
    if rows.answers_are_text:
        return f"target_response: {quoted('0.1' if rows.numeric_answers else 'I cannot help with that.')}"
    labels = list(rows.labels)
    rarest = min(reversed(range(len(labels))), key=lambda label: rows.labels[labels[label]])
    return f"target_label: {rarest}"
