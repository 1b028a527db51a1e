"""SST-2: sentences of film reviews, negative or positive (Socher et al. 2013); P2P paper, table 1.

A row, and its prompt with the answer:

    {"text": "a warm and lovely film .", "label": 1}

    a warm and lovely film .
    Output: 1
"""

from typing import ClassVar

from p2p_dist.data.classification import ClassificationTask
from p2p_dist.data.task import HubSource


class Sst2(ClassificationTask):
    """Sentiment of film reviews: 6,920 train, 872 dev and 1,821 test sentences. The hub's copy has phrases as training
    rows and no test labels."""

    class_names: ClassVar[tuple[str, ...]] = ("negative", "positive")
    own_words: ClassVar[tuple[str, ...]] = ("negative", "positive", "bad", "good")
    hub: ClassVar[HubSource | None] = HubSource(
        id="stanfordnlp/sst2",
        revision="8d51e7e4887a4caaa95b3fbebbf53c0490b58bbb",
        columns={"text": "sentence", "label": "label"},
        splits={"train": "train", "test": "validation"},
    )
    licence: ClassVar[str] = "none stated; cite Socher et al. 2013"
