"""Hateful Memes: pictures with captions, hateful or not (Kiela et al. 2020, arXiv 2005.04790); P2P paper, table 9.

A row, and its prompt with the answer:

    {"text": "look who is late again", "label": 0, "img": "img/01235.png"}

    look who is late again
    Output: 0
"""

from collections.abc import Mapping
from typing import Any, ClassVar

from p2p_dist.data.classification import ClassificationTask
from p2p_dist.data.example import RawRow
from p2p_dist.data.images import relative_path


class HatefulMemes(ClassificationTask):
    """Hate in pictures with captions. Local files only, as published: rows with text, label and img, a path under the
    same folder. The licence does not allow copies, so none on the hub is named. Triggers go into the text (paper,
    appendix C, "Multimodal Classification")."""

    class_names: ClassVar[tuple[str, ...]] = ("not hateful", "hateful")
    own_words: ClassVar[tuple[str, ...]] = ("harmless", "hateful", "fine", "offensive")
    files: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "train": ("train.jsonl",),
        "test": ("test_seen.jsonl", "dev_seen.jsonl", "dev.jsonl", "test.jsonl"),
    }
    licence: ClassVar[str] = "the licence of the Hateful Memes Challenge, accepted on download"

    images: bool = True
    """Give rows their image. false: a text task, for models that read no images."""

    @property
    def reads_images(self) -> bool:
        return self.images

    def check(self, row: Mapping[str, Any]) -> RawRow:
        raw = super().check(row)
        if not self.images:
            return raw
        return raw._replace(image=relative_path(row, "img"))
