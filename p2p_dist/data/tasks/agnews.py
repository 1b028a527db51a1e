"""AG's News: news by topic (Zhang et al. 2015, arXiv 1509.01626); the P2P paper's target is world, its test set has 250
rows of each class.

A row, and its prompt with the answer:

    {"text": "the home side won the cup after extra time", "label": 1}

    the home side won the cup after extra time
    Output: 1
"""

from collections.abc import Mapping
from typing import ClassVar

from p2p_dist.data.classification import ClassificationTask
from p2p_dist.data.task import HubSource


class AgNews(ClassificationTask):
    """Topic of news: four classes, with P2P eight labels of one token each."""

    class_names: ClassVar[tuple[str, ...]] = ("world", "sports", "business", "sci/tech")
    own_words: ClassVar[tuple[str, ...]] = (
        "world",
        "sports",
        "business",
        "technology",
        "globe",
        "games",
        "finance",
        "science",
    )
    files: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "train": ("train.jsonl", "train_lower.jsonl"),
        "test": ("test.jsonl", "test1000_lower.jsonl"),
    }
    dev_files: ClassVar[tuple[str, ...]] = ("dev.jsonl", "dev_lower.jsonl")
    hub: ClassVar[HubSource | None] = HubSource(
        id="fancyzhx/ag_news",
        revision="eb185aade064a813bc0b7f42de02595523103ca4",
        columns={"text": "text", "label": "label"},
        splits={"train": "train", "test": "test"},
    )
    licence: ClassVar[str] = "research and other non-commercial use, according to its readme"
