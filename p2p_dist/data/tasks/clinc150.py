"""CLINC150: requests to an assistant by domain (Larson et al. 2019, arXiv 1909.02027).

A row, and its prompt with the answer:

    {"text": "how much money is in my account", "label": 1}

    how much money is in my account
    Output: B
"""

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
    """Domain of a request: ten classes, with P2P twenty labels.

    Letters by default: numbers from 10 on share their first token.
    """

    class_names: ClassVar[tuple[str, ...]] = _DOMAINS
    own_words: ClassVar[tuple[str, ...]] = _WORDS + _MORE
    licence: ClassVar[str] = "CC BY 3.0"

    verbalizer: Literal["numeric", "letters", "words"] = "letters"
