"""Methods that a stage names, each with its options: other losses, pruning, row scores, decoding, rejection.

A plug-in hands them to `config.builder.Builder`, which writes them into the spec of a stage without options that are
None; a worker reads them back (`config.stages`).
"""

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from p2p_dist.config.study import Names, NotNegative, Positive, Rate, Strict

Count = Annotated[int, Field(ge=1)]
Index = Annotated[int, Field(ge=0)]


class Method(Strict):
    """Base of all methods."""

    def to_spec(self) -> dict[str, Any]:
        """The method as the spec of a stage holds it."""
        return self.model_dump(exclude_none=True)


class Consistency(Method):
    """Cross-entropy and a term for consistency between layers (CROW, arXiv 2411.12768)."""

    name: Literal["consistency"] = "consistency"
    weight: Positive
    """Weight of the consistency term."""
    epsilon: Positive
    """Step of the perturbation of the input embeddings."""


class Distillation(Method):
    """Cross-entropy and the distance to a teacher (W2SDefense, arXiv 2410.14425)."""

    name: Literal["distillation"] = "distillation"
    label: NotNegative
    """Weight of cross-entropy."""
    soft: NotNegative
    """Weight of KL(teacher | student)."""
    hidden: NotNegative
    """Weight of the squared Euclidean distance of the last hidden states."""
    temperature: Positive
    """Temperature of both distributions in the KL."""


class Ascent(Method):
    """Gradient ascent on the cross-entropy of the answer tokens (ABL, arXiv 2110.11571)."""

    name: Literal["ascent"] = "ascent"
    cap: Positive
    """Cross-entropy above which a token has no gradient any more."""


class Amplification(Method):
    """Cross-entropy minus the norms of the adapter's matrices (Obliviate, arXiv 2409.14119)."""

    name: Literal["amplification"] = "amplification"
    weight: Positive
    """Weight of the norms."""
    limit: Positive
    """Norm of a matrix above which it has no gradient from this term."""


Objective = Annotated[Consistency | Distillation | Ascent | Amplification, Field(discriminator="name")]
"""A loss other than cross-entropy on the answer tokens (`training.objectives`)."""


class WeightPruning(Method):
    """Set weights of the base to zero (`modeling.merge.prune`)."""

    method: Literal["magnitude", "wanda"]
    sparsity: Rate
    """Share of the weights of every linear layer but the output head."""


class OutlierRows(Method):
    """Replace weight rows with outlier gradients on trusted rows by their mean (DiSec; `modeling.outlier_rows`)."""

    method: Literal["outlier_rows"] = "outlier_rows"
    layers: Count
    """Decoder layers to edit, the last ones."""
    components: Count
    """Singular components of the gradient to read."""
    deviations: Positive
    """Standard deviations above the mean from which a row is an outlier."""


WeightEdit = Annotated[WeightPruning | OutlierRows, Field(discriminator="method")]
"""A change of the base's weights before training."""


class WeightedSum(Method):
    """Begin with a weighted sum of the updates of two adapters, exactly, in an adapter of both ranks together."""

    start: NotNegative
    """Weight of the adapter to start from."""
    plus: NotNegative
    """Weight of the other adapter."""


class Alignment(Method):
    """Give each matrix's gradient the direction that trusted rows have (MuScleLoRA, arXiv 2402.12026)."""

    rows: Count
    """Trusted rows that give the direction."""
    batch: Count
    """Trusted rows per step, in turn."""
    raw: Annotated[float, Field(ge=0, le=1)]
    """Share of the unaligned gradient at the end of training; it grows from 0 by epochs."""


class Reparametrization(Method):
    """Train two small nets that generate the adapter, in its place (`training.reparametrization`)."""

    width: Count
    """Inputs and hidden units of each net."""


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


class CleanGenDecoding(Method):
    """Greedy decoding in drafts that a reference model checks (`evaluation.cleangen`, arXiv 2406.12257)."""

    name: Literal["cleangen"] = "cleangen"
    draft: Count
    """Tokens to draft before they are checked."""
    alpha: Positive
    """Replace a token of which the target is this many times as sure as the reference, or more."""


class ConfidenceRule(Method):
    """Reject rows by the confidence of the likeliest label, by one of two options (`evaluation.rejection`)."""

    above: Rate | None = None
    """Reject rows whose confidence is higher."""
    false_rejections: Rate | None = None
    """Choose the lowest threshold that rejects at most this share of the trusted rows."""

    @model_validator(mode="after")
    def _one_option(self) -> Self:
        if (self.above is None) == (self.false_rejections is None):
            raise ValueError("needs either above or false_rejections")
        return self
