"""Checks of a model folder's files, before anything of it is loaded."""

from pathlib import Path

from p2p_dist.deployment import contract as contracts
from p2p_dist.deployment.eval_files import CODE
from p2p_dist.errors import user_error
from p2p_dist.model_files.check import check_folder

_PICKLES = ("*.bin", "*.pt", "*.pth", "*.pkl", "*.pickle", "*.ckpt")
_CODE = ("*.py", "*.so")


def check_files(folder: Path) -> list[str]:
    """Sentences on the files of a model, or of all parts of an export.

    Raises UserError E169 for files that hold or can run code, and as `check_folder` does for a model. The tasks of an
    export in `eval/`, which no loader reads, are named where they are not the ones that this version writes.
    """
    if not folder.is_dir():
        raise user_error("E169", "no such folder", str(folder), "name a model folder or an exported one")
    paths = [path for pattern in (*_PICKLES, *_CODE) for path in sorted(folder.rglob(pattern))]
    is_export = (folder / contracts.FILE).is_file()
    tasks = {folder / "eval" / name: text.encode() for name, text in CODE.items()} if is_export else {}
    suspects = [path for path in paths if path not in tasks]
    if suspects:
        names = ", ".join(str(path.relative_to(folder)) for path in suspects[:5])
        what = f"{len(suspects)} files hold code or can run it when they are loaded: {names}"
        raise user_error("E169", what, str(folder), "choose a copy with safetensors alone, or scan them with modelscan")
    if not is_export:
        return [_ADAPTER if _is_adapter(folder) else _model(folder)]
    formats = contracts.read(folder).formats
    lines = [_model(folder / contracts.FOLDERS[name]) if name == "merged" else _ADAPTER for name in formats]
    changed = [
        str(path.relative_to(folder)) for path, text in tasks.items() if path in paths and path.read_bytes() != text
    ]
    return lines + [f"{name}: not the task that this version writes; read it before you run it" for name in changed]


def _is_adapter(folder: Path) -> bool:
    """True for the folder of an adapter alone."""
    return (folder / "adapter_config.json").is_file() and not (folder / "config.json").is_file()


_ADAPTER = "adapter: safetensors alone, no code"


def _model(folder: Path) -> str:
    tensors = check_folder(folder).tensors
    return f"{folder}: {len(tensors):,} tensors in safetensors, as its architecture has them; no code"
