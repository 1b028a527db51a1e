"""Rewrites of LWS, learnable word substitution (Qi et al. 2021, arXiv 2106.06361), for a paraphrase table or as a stage
of a study.

Word exchanges are learned on labelled rows, and made in every text.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from p2p_dist.config.identity import digest
from p2p_dist.config.model import ModelRef
from p2p_dist.config.score_methods import WordSubstitutions
from p2p_dist.config.stages import ScoreStage
from p2p_dist.data.built import Built
from p2p_dist.data.example import Example, examples, share, smallest
from p2p_dist.data.input_files import digest_of
from p2p_dist.data.paraphrases import key_of, write_table
from p2p_dist.data.substitutions import Choices, choices_of, exchanged, read_choices, row_of
from p2p_dist.errors import user_error
from p2p_dist.modeling.base import Base
from p2p_dist.modeling.substitution import Learning, Substitution, learn
from p2p_dist.modeling.surrogate_state import SurrogateFile
from p2p_dist.scores.context import Line
from p2p_dist.worker.paraphrase import load_for_generation


@dataclass(frozen=True)
class Aim:
    """Goal of the attacker."""

    target: int
    """Target label."""
    rate: float = 0.1
    """Share of the rows on which the exchanges are learned."""


def make_table(
    rows: Sequence[tuple[str, int]],
    texts: Sequence[str],
    synonyms: Path,
    model: ModelRef,
    aim: Aim,
    settings: Learning,
    out: Path,
    on_progress: Callable[[int, int], None],
) -> tuple[int, int]:
    """Learn on `rows` (text, label), and write a table of these and of `texts`.

    Returns the numbers of texts with and without an exchange. Raises UserError E244 as `learned_exchanges` does.
    """
    base = load_for_generation(model.identity, model.local, "float32")
    outputs = learned_exchanges(examples(rows), texts, synonyms, base, aim, settings, on_progress)
    generator = (
        f"LWS by {model.name} {digest(model.identity)}, target {aim.target}, "
        f"{digest({**asdict(settings), 'rate': aim.rate})}"
    )
    return write_table(out, [row_of(text, output, generator) for text, output in outputs.items()])


def score(
    stage: ScoreStage,
    method: WordSubstitutions,
    rows: Built,
    file: SurrogateFile,
    on_progress: Callable[[int, int], None],
) -> list[Line]:
    """Lines of a score stage, as the method `rewrites` has them: every row's text with its exchanges. `file` keeps the
    surrogate between its epochs.

    The surrogate is trained in all its weights, so that it is loaded for this stage alone. Raises UserError E208 for a
    thesaurus that changed, E244 as `learned_exchanges` does.
    """
    assert stage.model is not None
    synonyms = Path(stage.local.attack["synonyms"]).expanduser()
    if digest_of(synonyms) != method.synonyms:
        raise user_error("E208", "the thesaurus changed", str(synonyms), "plan the study again")
    base = load_for_generation(stage.model, stage.local.model, "float32")
    settings = Learning(method.warm_up_epochs, method.epochs, method.learning_rate, seed=method.seed)
    sets = [(name, row) for name in method.sets for row in (rows.train if name == "train" else rows.suites[name].rows)]
    outputs = learned_exchanges(
        examples((row.text, row.label) for row in rows.train),
        [row.text for _, row in sets],
        synonyms,
        base,
        Aim(method.target, method.rate),
        settings,
        on_progress,
        file,
    )
    return [{"set": name, "id": row.id, **_line(row.text, outputs[row.text])} for name, row in sets]


def _line(text: str, output: str) -> dict[str, object]:
    return {"key": key_of(text), "output": output, "ok": output != text}


def learned_exchanges(
    labelled: Sequence[Example],
    texts: Sequence[str],
    synonyms: Path,
    base: Base,
    aim: Aim,
    settings: Learning,
    on_progress: Callable[[int, int], None],
    file: SurrogateFile | None = None,
) -> dict[str, str]:
    """The exchanges that a surrogate learns on labelled rows, made in their texts and in `texts`: each text with its
    exchanges. The weights of `base` change.

    Raises UserError E244 when no row of another class has a word with synonyms.
    """
    choices = read_choices(synonyms, settings.most_candidates)
    # 1. Choose the rows to poison.
    poisoned = _pool(labelled, choices, aim, settings, synonyms)
    # 2. Learn the exchanges on a surrogate model.
    n_classes = 1 + max(aim.target, *(example.label for example in labelled))
    surrogate = Substitution(base, choices, n_classes, settings)
    learn(surrogate, labelled, poisoned, aim.target, on_progress, file)
    # 3. Make them in every text.
    with torch.no_grad():
        every_text = dict.fromkeys([*(example.text for example in labelled), *texts])
        return {text: exchanged(text, surrogate.picks(text), choices) for text in every_text}


def _pool(labelled: Sequence[Example], choices: Choices, aim: Aim, settings: Learning, synonyms: Path) -> list[Example]:
    """Rows of other classes than the target that have a word to exchange: a share of all rows, chosen by content."""
    candidates = [
        example
        for example in labelled
        if example.label != aim.target and any(len(words) > 1 for words in choices_of(example.text, choices))
    ]
    if not candidates:
        raise user_error(
            "E244",
            "no row of another class has a word with synonyms",
            str(synonyms),
            "add synonyms of words in these texts",
        )
    count = share(aim.rate, len(labelled))
    chosen = smallest([example.id for example in candidates], count, settings.seed, "lws.pool")
    return [example for example in candidates if example.id in chosen]
