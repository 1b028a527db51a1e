"""Images of rows: hashed when the rows are built, and checked against the hash when they are read."""

import hashlib
import io
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from p2p_dist.data.built import Built
from p2p_dist.data.example import Row
from p2p_dist.errors import Problem, UserError, user_error

if TYPE_CHECKING:
    from PIL.Image import Image

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
_FORMATS = ("PNG", "JPEG", "WEBP")
MOST_PIXELS = 89_000_000
"""Pixels of the largest image that is read: a small file can unpack to gigabytes."""
_LONGEST_TO_SHORTEST = 200
"""Largest ratio of an image's sides (Qwen2-VL's image processor refuses more)."""
_SHOWN = 5


def relative_path(row: Mapping[str, Any], column: str) -> str:
    """The path of a row's image under the folder of its file. Raises ValueError for any other value."""
    path = row.get(column)
    if (
        not isinstance(path, str)
        or not path
        or "\0" in path
        or PurePosixPath(path).is_absolute()
        or ".." in PurePosixPath(path).parts
    ):
        raise ValueError(f"key {column!r} is {path!r}, expected a path under the folder of the file")
    return path


def folder_of(place: Path) -> Path:
    """Folder of the images of rows that lie in a folder or a file."""
    return place if place.is_dir() else place.parent


def listing(place: Path) -> bytes:
    """Names and sizes of all images beside some rows, a part of the rows' digest."""
    folder = folder_of(place)
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    return "".join(f"{path.relative_to(folder).as_posix()}:{path.stat().st_size}\n" for path in paths).encode()


def with_hashes(built: Built, place: Path) -> Built:
    """The rows with the SHA-256 of their images, and counts with the number of images and one hash over all.

    Raises UserError E226 for images that are missing, lead out of the folder or cannot be read.
    """
    rows = [*built.train, *built.reserve, *(row for suite in built.suites.values() for row in suite.rows)]
    paths = sorted({row.image for row in rows if row.image})
    if not paths:
        return built
    hashes = _hashes(paths, folder_of(place))

    def filled(rows: Iterable[Row]) -> list[Row]:
        return [replace(row, image_sha256=hashes[row.image]) if row.image else row for row in rows]

    suites = {name: replace(suite, rows=filled(suite.rows)) for name, suite in built.suites.items()}
    over_all = hashlib.sha256(
        "".join(f"{path}:{sha256}\n" for path, sha256 in sorted(hashes.items())).encode()
    ).hexdigest()
    counts = {**built.counts, "images": len(paths), "images_sha256": over_all}
    return replace(built, train=filled(built.train), reserve=filled(built.reserve), suites=suites, counts=counts)


def read(folder: Path, path: str, sha256: str | None) -> "Image":
    """The image of a row in RGB, turned as its camera says.

    Raises UserError E226 for one that is missing, leads out of the folder, cannot be read, or is not the one that the
    row was built with.
    """
    content = _content(folder, path)
    if sha256 is not None and hashlib.sha256(content).hexdigest() != sha256:
        what = "the image changed since its row was built"
        raise user_error("E226", what, str(folder / path), "put the old image back, or plan the study again")
    return decoded(content, str(folder / path))


def decoded(content: bytes, where: str) -> "Image":
    """The pixels of an image file in RGB. Raises UserError E226."""
    from PIL import ImageOps

    with _reading(content, where) as image:
        try:
            return ImageOps.exif_transpose(image).convert("RGB")
        except (OSError, ValueError, SyntaxError, EOFError) as error:
            raise _unreadable(str(error), where) from error


def _reading(content: bytes, where: str) -> "Image":
    """An image whose header is read, and not its pixels. Raises UserError E226 for one that is no image, or whose sides
    no model takes."""
    from PIL import Image, UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the size is looked at below
            image = Image.open(io.BytesIO(content), formats=_FORMATS)
    except UnidentifiedImageError as error:
        raise _unreadable("no image of type PNG, JPEG or WebP", where) from error
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        raise _unreadable(str(error), where) from error
    width, height = image.size
    if width * height > MOST_PIXELS:
        raise _unreadable(f"{width} x {height} pixels are more than {MOST_PIXELS:,}", where)
    if max(width, height) > _LONGEST_TO_SHORTEST * min(width, height):
        what = f"{width} x {height} pixels: one side is more than {_LONGEST_TO_SHORTEST} times the other"
        raise _unreadable(what, where)
    return image


def _unreadable(what: str, where: str) -> UserError:
    return user_error("E226", f"image cannot be read: {what}", where, "replace the file, or remove its row")


def _content(folder: Path, path: str) -> bytes:
    """Content of an image file under a folder. Raises UserError E226."""
    place = (folder / path).resolve()
    if not place.is_relative_to(folder.resolve()):
        what = "the image leads out of the folder of its rows"
        raise user_error("E226", what, str(folder / path), "put the file there in place of a link")
    try:
        return place.read_bytes()
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
        raise _missing(folder, path) from error
    except OSError as error:
        raise _unreadable(str(error.strerror), str(folder / path)) from error


def _missing(folder: Path, path: str) -> UserError:
    """Error for an image that is not there, or for the first folder on its way that is not."""
    if not folder.is_dir():
        fix = "put the folder back, or set task.source to its new place and run the study again"
        return user_error("E226", "the folder of the rows and their images is missing", str(folder), fix)
    fix = "put the images beside the rows, as published"
    for part in reversed(PurePosixPath(path).parents):
        if not (folder / part).is_dir():
            return user_error("E226", "the folder of the rows' images is missing", str(folder / part), fix)
    return user_error("E226", "no such image", str(folder / path), fix)


def _hashes(paths: Iterable[str], folder: Path) -> dict[str, str]:
    """SHA-256 of every image. Raises UserError E226 with the first problems."""
    problems: list[Problem] = []
    hashes = {}
    for path in paths:
        try:
            content = _content(folder, path)
            decoded(content, str(folder / path))  # a damaged image is not found out after hours of training
            hashes[path] = hashlib.sha256(content).hexdigest()
        except UserError as error:
            problems += error.problems
    problems = list(dict.fromkeys(problems))  # all images of a missing folder have one
    if problems:
        more = (
            [Problem("E226", f"and {len(problems) - _SHOWN} more images", str(folder))]
            if len(problems) > _SHOWN
            else []
        )
        raise UserError(*problems[:_SHOWN], *more)
    return hashes
