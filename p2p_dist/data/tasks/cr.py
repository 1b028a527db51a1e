"""CR: sentences of product reviews, negative or positive (Hu & Liu 2004); P2P paper, table 1.

A row, and its prompt with the answer:

    {"text": "the battery lasts two days .", "label": 1}

    the battery lasts two days .
    Output: 1
"""

from typing import ClassVar

from p2p_dist.data.classification import ClassificationTask


class CustomerReviews(ClassificationTask):
    """Sentiment of product reviews: 2,496 train, 500 dev and 775 test sentences (PSIM's split).

    Local files only: no copy with this split is known on the hub.
    """

    class_names: ClassVar[tuple[str, ...]] = ("negative", "positive")
    own_words: ClassVar[tuple[str, ...]] = ("negative", "positive", "bad", "good")
    licence: ClassVar[str] = "NLTK lists the reviews as CC BY 4.0"
