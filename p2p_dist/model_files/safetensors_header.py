"""Headers of safetensors files: names, types and shapes of their tensors, read without their content."""

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from p2p_dist.errors import user_error

LARGEST_HEADER = 100_000_000
"""Bytes; the limit of the safetensors library."""
_POINTER = b"version https://git-lfs"


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """Type (`F32`, `BF16`, `I8`, ...) and shape of a stored tensor."""

    dtype: str
    shape: tuple[int, ...]


def read_header(path: Path) -> dict[str, TensorInfo]:
    """Tensors of a safetensors file by name. Raises UserError E272 for a git-lfs pointer, and for a file that is cut
    off or damaged."""
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        if is_lfs_pointer(path):
            raise lfs_error(path)
        if len(start) < 8:
            raise _damaged(path, f"it has {size} bytes")
        (length,) = struct.unpack("<Q", start)
        if length > LARGEST_HEADER:
            raise _damaged(path, f"its header would have {length} bytes")
        if length > size - 8:
            raise _cut_off(path, size, 8 + length)
        content = file.read(length)
    try:
        entries = json.loads(content)
        tensors = {name: entry for name, entry in entries.items() if name != "__metadata__"}
        end = max((int(entry["data_offsets"][1]) for entry in tensors.values()), default=0)
        header = {name: _tensor(entry) for name, entry in tensors.items()}
    except (ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
        raise _damaged(path, "its header cannot be read") from error
    if 8 + length + end > size:
        raise _cut_off(path, size, 8 + length + end)
    return header


def is_lfs_pointer(path: Path) -> bool:
    """True for the text that git leaves in the place of a large file that was not fetched."""
    if path.stat().st_size > 1024:
        return False
    with path.open("rb") as file:
        return file.read(len(_POINTER)) == _POINTER


def lfs_error(path: Path) -> Exception:
    """The error for a git-lfs pointer."""
    what = "file is a git-lfs pointer; its content was never downloaded"
    return user_error("E272", what, str(path), f"run git lfs pull in {path.parent}")


def _tensor(entry: Mapping[str, Any]) -> TensorInfo:
    return TensorInfo(str(entry["dtype"]), tuple(int(number) for number in entry["shape"]))


def _cut_off(path: Path, size: int, full_size: int) -> Exception:
    what = f"safetensors file is cut off: {size} bytes of at least {full_size}"
    return user_error("E272", what, str(path), "download the file again")


def _damaged(path: Path, reason: str) -> Exception:
    return user_error("E272", f"file is damaged or no safetensors file: {reason}", str(path), "download the file again")
