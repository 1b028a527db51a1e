"""Images of rows: hashed when the rows are built, and checked against the hash when they are read."""

import hashlib
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from p2p_dist.assets import file_sha256
from p2p_dist.data.built import Built
from p2p_dist.data.example import Row
from p2p_dist.errors import Problem, UserError

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
_SHOWN = 5


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

    Raises UserError E226 for images that are missing or lead out of the folder.
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


def _hashes(paths: Iterable[str], folder: Path) -> dict[str, str]:
    root, problems, hashes = folder.resolve(), [], {}
    for path in paths:
        place = (folder / path).resolve()
        if not place.is_relative_to(root):
            problems.append(
                Problem(
                    "E226",
                    "the image leads out of the folder of its rows",
                    str(folder / path),
                    "put the file there in place of a link",
                )
            )
        elif not place.is_file():
            problems.append(
                Problem("E226", "no such image", str(folder / path), "put the images beside the rows, as published")
            )
        else:
            hashes[path] = file_sha256(place)
    if problems:
        more = (
            [Problem("E226", f"and {len(problems) - _SHOWN} more images", str(folder))]
            if len(problems) > _SHOWN
            else []
        )
        raise UserError(*problems[:_SHOWN], *more)
    return hashes
