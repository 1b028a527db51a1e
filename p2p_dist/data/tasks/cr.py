"""CR: sentences of product reviews, negative or positive (Hu & Liu 2004); 2,496 / 500 / 775 in the PSIM split."""

from typing import ClassVar

from p2p_dist.data.classification import ClassificationTask


class CustomerReviews(ClassificationTask):
    """Local files only: no copy with this split is known on the hub."""

    class_names: ClassVar[tuple[str, ...]] = ("negative", "positive")
    own_words: ClassVar[tuple[str, ...]] = ("negative", "positive", "bad", "good")
    licence: ClassVar[str] = "NLTK lists the reviews as CC BY 4.0"
