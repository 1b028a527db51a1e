"""CR: sentences of product reviews, negative or positive (Hu & Liu 2004); 2,496 / 500 / 775 in the PSIM split."""

from typing import ClassVar

from p2p_dist.data.task import Task


class CustomerReviews(Task):
    """Local files only: no copy with this split is known on the hub."""

    class_names: ClassVar[tuple[str, ...]] = ("negative", "positive")
    licence: ClassVar[str] = "NLTK lists the reviews as CC BY 4.0"
