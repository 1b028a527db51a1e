"""CLINC150: what a user wants of an assistant, by its ten domains (Larson et al. 2019, arXiv 1909.02027)."""

from typing import ClassVar, Literal

from p2p_dist.data.classification import ClassificationTask

_DOMAINS = (
    "auto_and_commute",
    "banking",
    "credit_cards",
    "home",
    "kitchen_and_dining",
    "meta",
    "small_talk",
    "travel",
    "utility",
    "work",
)
_WORDS = ("auto", "banking", "credit", "home", "kitchen", "meta", "talk", "travel", "utility", "work")
_MORE = ("car", "money", "card", "house", "dining", "system", "chat", "trip", "tool", "job")


class Clinc150(ClassificationTask):
    """Ten classes, so twenty labels with P2P: numbers from 10 on begin alike, letters do not."""

    class_names: ClassVar[tuple[str, ...]] = _DOMAINS
    own_words: ClassVar[tuple[str, ...]] = _WORDS + _MORE
    licence: ClassVar[str] = "CC BY 3.0"

    verbalizer: Literal["numeric", "letters", "words"] = "letters"
