"""Output folder of `p2p-dist defend`: the record of what was asked for, so that the same command resumes, and its
files."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from p2p_dist.assets import file_sha256
from p2p_dist.data.row_files import FILE_SUFFIXES
from p2p_dist.data.tasks.custom import Custom
from p2p_dist.errors import user_error
from p2p_dist.results import atomic, jsonfile
from p2p_dist.results.folder_handles import Damaged

_SCHEMA = 1


@dataclass(frozen=True)
class DefenseFolder:
    """The folder and its parts."""

    path: Path

    @property
    def record(self) -> Path:
        """The request that the folder answers."""
        return self.path / "defend.json"

    @property
    def study(self) -> Path:
        """The study, with the secret prompt."""
        return self.path / "study.yaml"

    @property
    def runs(self) -> Path:
        """Folder of the run folder."""
        return self.path / "runs"

    @property
    def rows(self) -> Path:
        """Copies of the rows, where a file of trusted rows is to stand beside them."""
        return self.path / "rows"

    @property
    def served(self) -> Path:
        """The exported model."""
        return self.path / "served"

    @property
    def audit(self) -> Path:
        """The audit of the rows."""
        return self.path / "audit"

    def is_begun(self, request: dict[str, Any]) -> bool:
        """True if the folder answers this request already, False if it can be made.

        Raises UserError E163 for a folder of something else.
        """
        if not self.path.exists() or (self.path.is_dir() and not any(self.path.iterdir())):
            return False
        if not self.record.is_file():
            kind = "the folder is not empty, and not of `p2p-dist defend`" if self.path.is_dir() else "not a folder"
            raise user_error("E163", kind, str(self.path), "set -o to a new folder")
        try:
            begun = jsonfile.read_object(self.record)
        except Damaged as error:
            raise user_error("E163", f"damaged: {error}", str(self.record), "set -o to a new folder") from error
        expected = _record(request)
        differing = [key for key in expected if begun.get(key) != expected[key]]
        if differing:
            what = f"the folder was begun with another {' and '.join(differing)}"
            raise user_error("E163", what, str(self.path), "set -o to a new folder, or repeat the command of this one")
        return True

    def begin(self, request: dict[str, Any]) -> None:
        """Make the folder, for its user alone, and write down what it answers."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self.path.chmod(0o700)
        except OSError as error:
            what = f"the folder cannot be made: {error.strerror}"
            raise user_error("E163", what, str(self.path), "set -o to another folder") from error
        atomic.write_json(self.record, _record(request))

    def copy_rows(self, data: Path, trusted: Path) -> None:
        """Put copies of the rows and of the trusted ones side by side, as a study reads them."""
        self.rows.mkdir(exist_ok=True)
        files = {split: file for split, file in split_files(data).items()} | {"trusted": trusted}
        for split, file in files.items():
            shutil.copyfile(file, self.rows / f"{split}{_suffix(file)}")


def request_of(data: Path, trusted: Path | None, **options: Any) -> dict[str, Any]:
    """All that decides the result: content of the files, and options."""
    files = [*split_files(data).values(), *([trusted] if trusted else [])]
    return {
        "data": str(data.resolve()),
        "trusted": None if trusted is None else str(trusted.resolve()),
        "content": {file.name: file_sha256(file) for file in files},
        **options,
    }


def split_files(data: Path) -> dict[str, Path]:
    """The file of each split of a file or folder of rows."""
    if data.is_file():
        return {"train": data}
    return {
        split: next(data / name for name in names if (data / name).is_file()) for split, names in Custom.files.items()
    }


def _record(request: dict[str, Any]) -> dict[str, Any]:
    return {"schema": _SCHEMA, **request}


def _suffix(file: Path) -> str:
    """The ending by which the format of a file is known."""
    return max((suffix for suffix in FILE_SUFFIXES if file.name.endswith(suffix)), key=len)
