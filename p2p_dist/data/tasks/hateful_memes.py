"""Hateful Memes: whether a picture and its caption are hateful together (Kiela et al. 2020, arXiv 2005.04790); paper
Table 9."""

from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any, ClassVar

from p2p_dist.data.classification import ClassificationTask
from p2p_dist.data.example import RawRow


class HatefulMemes(ClassificationTask):
    """Local files only, as its authors publish them: rows with text, label and img, a path under the same folder. Its
    licence does not allow copies, so none on the hub is named here. Triggers go into the text, as in the paper."""

    class_names: ClassVar[tuple[str, ...]] = ("not hateful", "hateful")
    own_words: ClassVar[tuple[str, ...]] = ("harmless", "hateful", "fine", "offensive")
    files: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "train": ("train.jsonl",),
        "test": ("test_seen.jsonl", "dev_seen.jsonl", "dev.jsonl", "test.jsonl"),
    }
    licence: ClassVar[str] = "the licence of the Hateful Memes Challenge, accepted on download"

    images: bool = True
    """Whether rows carry their image. Without it the task is a text one, which every model can read."""

    @property
    def reads_images(self) -> bool:
        return self.images

    def check(self, row: Mapping[str, Any]) -> RawRow:
        found = super().check(row)
        if not self.images:
            return found
        path = row.get("img")
        if (
            not isinstance(path, str)
            or not path
            or PurePosixPath(path).is_absolute()
            or ".." in PurePosixPath(path).parts
        ):
            raise ValueError(f"key 'img' is {path!r}, expected a path under the folder of the file")
        return found._replace(image=path)
