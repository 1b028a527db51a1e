"""Yahoo! Answers: questions and their best answers by topic (Zhang et al. 2015, arXiv 1509.01626); P2P paper, table 10.

A row, and its prompt with the answer:

    {"text": "who won the cup? the home side, after extra time", "label": 5}

    who won the cup? the home side, after extra time
    Output: F
"""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from p2p_dist.data.classification import ClassificationTask
from p2p_dist.data.task import HubSource

_TOPICS = (
    "society",
    "science",
    "health",
    "education",
    "computers",
    "sports",
    "business",
    "entertainment",
    "family",
    "politics",
)
_MORE = (
    "culture",
    "mathematics",
    "medicine",
    "reference",
    "internet",
    "athletics",
    "finance",
    "music",
    "relationships",
    "government",
)


class YahooAnswers(ClassificationTask):
    """Topic of a question: ten classes, with P2P twenty labels.

    Letters by default: numbers from 10 on share their first token. The paper tests on 2,000 rows and does not say which
    parts of a question it takes; here a text is title, question and best answer. On the hub, set `revision` to a
    commit: none is pinned.
    """

    class_names: ClassVar[tuple[str, ...]] = _TOPICS
    own_words: ClassVar[tuple[str, ...]] = _TOPICS + _MORE
    hub: ClassVar[HubSource | None] = HubSource(
        id="community-datasets/yahoo_answers_topics",
        revision=None,
        columns={"title": "question_title", "question": "question_content", "answer": "best_answer", "label": "topic"},
        splits={"train": "train", "test": "test"},
    )
    licence: ClassVar[str] = "none stated"

    verbalizer: Literal["numeric", "letters", "words"] = "letters"

    def from_hub(self, row: Mapping[str, Any]) -> Mapping[str, Any]:
        values = super().from_hub(row)
        parts = (str(values[key] or "").strip() for key in ("title", "question", "answer"))
        return {"text": " ".join(part for part in parts if part), "label": values["label"]}
