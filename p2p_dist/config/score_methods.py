"""Ways to score rows by a model, each with its options (`scores`)."""

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from p2p_dist.config.methods import Count, Index, Method
from p2p_dist.config.study import Names, Positive, Rate, added


class LabelScores(Method):
    """Log-probabilities of the label words (`scores.labels`)."""

    name: Literal["labels"] = "labels"
    sets: Names
    """Sets of rows: `train`, `reserve`, test suites by name, or `suites` for all of them."""


class WordPerplexity(Method):
    """Perplexity of each text without each of its words (`scores.words`)."""

    name: Literal["word_perplexity"] = "word_perplexity"
    sets: Names
    """Sets of rows, as in `LabelScores`."""


class WordInfluence(Method):
    """Change of the hidden state when a word is left out (`scores.influence`)."""

    name: Literal["word_influence"] = "word_influence"
    sets: Names
    """Sets of rows, as in `LabelScores`."""
    keep: Count
    """Words per text to keep, strongest first."""


class PromptInformation(Method):
    """Log-probabilities of text answers behind their own prompts and behind those of other rows
    (`scores.prompt_information`)."""

    name: Literal["prompt_information"] = "prompt_information"
    others: Count
    """Other rows whose prompts each answer is scored behind."""
    agreement: Rate
    """Share of the answers that must be likelier behind their own prompt than behind any of the others."""


class EarlyTrust(Method):
    """Label scores by a model that has just begun to learn the task (`scores.early`)."""

    name: Literal["early_trust"] = "early_trust"
    check_every: Count
    """Training steps between two checks of the probe."""
    probe: Count
    """Rows per class in the probe."""
    agreement: Rate
    """Stop when this share of the probe, in every class, is answered with its given label."""
    checkpoints: Count
    """Checks to average over from there on."""
    distinct: bool = added(False)
    """Count a model once that the last check and the end see; set where `checkpoints` is more than 1."""
    draw: Index
    """Number of the draw: another order and start for another value."""
    folds: Count | None = None
    """Parts for cross-fitting."""
    fold: Index | None = None
    """Part to score, by a training on the others."""

    @model_validator(mode="after")
    def _part_of_folds(self) -> Self:
        if (self.folds is None) != (self.fold is None) or (self.folds or 1) <= (self.fold or 0):
            raise ValueError(f"fold {self.fold} of folds {self.folds}")
        return self


class AnswerStates(Method):
    """Last hidden states of training rows where the answer begins, by their principal components (`scores.states`)."""

    name: Literal["answer_states"] = "answer_states"
    components: Count
    """Principal components to keep."""


class CleanDistance(Method):
    """Distance of each training row's hidden states from those of trusted rows (DUP; `scores.clean_distance`)."""

    least: ClassVar[int] = 8
    """Trusted rows that a comparison needs."""

    name: Literal["clean_distance"] = "clean_distance"
    rows: Annotated[int, Field(ge=least)]
    """Trusted rows to compare with, half of them for the distance and half for its scale."""
    layers: Count
    """Layers to average over: those in which the trusted rows' classes are farthest apart."""
    spectrum: Rate
    """Weight of the change between layers; the distance has the rest."""


class EmbeddingDrift(Method):
    """Words whose embeddings move most when embeddings alone are trained (BTU; `scores.embedding_drift`)."""

    name: Literal["embedding_drift"] = "embedding_drift"
    share: Rate
    """Suspected tokens as a share of the vocabulary."""
    learning_rate: Positive
    batch: Count
    """Rows per step."""


class AnswerGradients(Method):
    """Gradients of the training rows' losses with respect to the output projection (`scores.gradients`)."""

    name: Literal["answer_gradients"] = "answer_gradients"
    components: Count
    """Principal components to keep."""
    block: Count
    """Keep the first 1/`block` of the rows and of the columns of each gradient."""


class WordAttribution(Method):
    """Attribution of an adapter's answer to each word of a text, by gradient x input (`scores.attribution`)."""

    name: Literal["word_attribution"] = "word_attribution"
    sets: Names
    """Sets of rows, as in `LabelScores`."""


class FreeAnswers(Method):
    """Answers that a model writes to the training rows (`scores.answers`)."""

    name: Literal["free_answers"] = "free_answers"
    ends: Literal[True] | None = None
    """Also tell whether each answer has ended, and was not cut off."""


class TextRewrites(Method):
    """Rewrites of texts by an instruction-tuned model (`scores.rewrites`)."""

    name: Literal["rewrites"] = "rewrites"
    sets: Names
    instructions: Names
    """Requests to the model, each about the answer to the one before."""
    accept: str = ""
    """Regular expression that a good rewrite matches; empty: any."""
    max_new_tokens: Count


class WordSubstitutions(Method):
    """Exchanges of words that a surrogate learns, so that a backdoor is easy to learn (`worker.word_substitution`)."""

    name: Literal["word_substitutions"] = "word_substitutions"
    sets: Names
    synonyms: str
    """Hex SHA-256 of the thesaurus."""
    target: Index
    rate: Rate
    """Share of the training rows on which the exchanges are learned."""
    warm_up_epochs: Index
    epochs: Count
    learning_rate: Positive
    seed: Index


ScoreMethod = Annotated[
    LabelScores
    | WordPerplexity
    | WordInfluence
    | WordAttribution
    | EarlyTrust
    | PromptInformation
    | AnswerStates
    | AnswerGradients
    | CleanDistance
    | EmbeddingDrift
    | FreeAnswers
    | TextRewrites
    | WordSubstitutions,
    Field(discriminator="name"),
]
"""A way to score rows by a model (`scores`)."""
