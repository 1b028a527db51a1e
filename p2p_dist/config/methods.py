"""Methods that a stage names, each with its options: other losses, pruning, decoding, rejection; `score_methods` has
those that score rows.

`config.builder.Builder` writes them into stages without options that are None; `config.stages` reads them back.
"""

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from p2p_dist.config.study import NotNegative, Positive, Rate, Strict

Count = Annotated[int, Field(ge=1)]
Index = Annotated[int, Field(ge=0)]


class Method(Strict):
    """Base of all methods."""

    def to_spec(self) -> dict[str, Any]:
        """The method as the spec of a stage holds it."""
        return self.model_dump(exclude_none=True)


class Consistency(Method):
    """Cross-entropy and consistency between layers, of which it needs `least_layers` (CROW, arXiv 2411.12768)."""

    least_layers: ClassVar[int] = 3
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
