"""Model folder as files: its config.json and the headers of its weights. Nothing is loaded, and torch is not needed."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from p2p_dist import assets
from p2p_dist.errors import user_error
from p2p_dist.model_files.safetensors_header import TensorInfo, is_lfs_pointer, lfs_error, read_header

LARGEST_JSON = 200_000_000
"""Bytes of the largest JSON file that is read."""
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
_LONGEST_NAME = 255
_SINGLE, _INDEX = "model.safetensors", "model.safetensors.index.json"


@dataclass(frozen=True)
class ModelFolder:
    """Configuration and tensors of a model folder."""

    path: Path
    config: Mapping[str, Any]
    tensors: Mapping[str, TensorInfo]

    @property
    def model_type(self) -> str:
        return str(self.config.get("model_type"))


def unpacked_gguf(sha256: str) -> Path:
    """Folder in the cache to which a GGUF file of this SHA-256 is unpacked."""
    return assets.cache_dir() / "models" / f"gguf-{sha256[:12]}-v2"


def read_folder(path: Path) -> ModelFolder:
    """Read config.json and all headers of a model folder.

    Raises UserError E271 where it is no folder of one model, E272 for weights that cannot be read.
    """
    return ModelFolder(path, read_config(path), read_tensors(path))


def read_config(path: Path) -> Mapping[str, Any]:
    """Content of config.json. Raises UserError E271 where there is none, or where it or an adapter's is beside it."""
    file, has_adapter = path / "config.json", (path / "adapter_config.json").is_file()
    if file.is_file():
        if has_adapter:
            what = "folder holds a model and an adapter (adapter_config.json); it is not clear which is meant"
            raise user_error("E271", what, str(path), "move the files adapter_* into a folder of their own")
        return read_json(file)
    if has_adapter:
        what = "folder holds an adapter (adapter_config.json) and no model"
        fix = "name the model that the adapter was trained on, or merge the two and save the result"
        raise user_error("E271", what, str(path), fix)
    ggufs = sorted(path.glob("*.gguf"))
    fix = f"name the file {ggufs[0]}" if ggufs else "name the folder that save_pretrained wrote, with its config.json"
    raise user_error("E271", "folder has no config.json", str(path), fix)


def read_json(file: Path) -> Mapping[str, Any]:
    """A JSON object. Raises UserError E271 for other content, E272 for a git-lfs pointer."""
    if is_lfs_pointer(file):
        raise lfs_error(file)
    fix = "download the file again"
    if file.stat().st_size > LARGEST_JSON:
        raise user_error("E271", f"JSON file has more than {LARGEST_JSON} bytes", str(file), fix)
    try:
        content = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise user_error("E271", f"file is no JSON: {error}", str(file), fix) from error
    if not isinstance(content, dict):
        raise user_error("E271", f"expected a JSON object, found {type(content).__name__}", str(file), fix)
    return content


def weight_files(path: Path) -> list[Path]:
    """Files that transformers reads weights from: the single one, or those of the index.

    Raises UserError E272 where there are none, or some of the index are missing.
    """
    if (path / _SINGLE).is_file():
        return [path / _SINGLE]
    if (path / _INDEX).is_file():
        return _shards(path)
    raise _no_weights(path)


def read_tensors(path: Path) -> dict[str, TensorInfo]:
    """Tensors of a folder by name. Raises UserError E272."""
    return {name: info for file in weight_files(path) for name, info in read_header(file).items()}


def _shards(path: Path) -> list[Path]:
    index = path / _INDEX
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(name, str) for name in weight_map.values()):
        raise user_error("E272", "index has no weight_map", str(index), "download the file again")
    names: Sequence[str] = sorted(set(weight_map.values()))
    if outside := [
        name for name in names if Path(name).name != name or len(name.encode(errors="surrogatepass")) > _LONGEST_NAME
    ]:
        raise user_error("E272", f"index names a file of another folder: {outside[0]}", str(index), "repair the index")
    if missing := [name for name in names if not (path / name).is_file()]:
        what = f"{len(missing)} of {len(names)} weight files are missing: {', '.join(missing[:3])}"
        raise user_error("E272", what, str(path), "download the folder again")
    return [path / name for name in names]


def _no_weights(path: Path) -> Exception:
    """The reason why a folder has no weights that can be read."""
    pickles = sorted(
        file.name for file in path.iterdir() if file.suffix in _PICKLES and "training_args" not in file.name
    )
    if pickles:
        what = f"weights are pickle files ({', '.join(pickles[:3])}), which can run code; only safetensors are read"
        fix = "convert them with save_pretrained on a machine where you trust them, or choose a revision in safetensors"
        return user_error("E272", what, str(path), fix)
    others = sorted(file.name for file in path.glob("*.safetensors"))
    if others:
        what = f"weights are named {', '.join(others[:3])}, and there is no {_INDEX}"
        return user_error("E272", what, str(path), f"download the index too, or name a single file {_SINGLE}")
    what = f"folder has no weights ({_SINGLE})"
    return user_error("E272", what, str(path), "download the whole folder again")
