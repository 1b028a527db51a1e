"""The fake CUDA device as a shared library: compiled once for each version of torch, and loaded before torch."""

import ctypes
import hashlib
import importlib.util
import os
import shutil
import subprocess
import tempfile
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

SOURCE = Path(__file__).with_name("guard.cpp")


class Unavailable(Exception):
    """The reason why the device cannot be made on this machine."""


def compiled() -> Path:
    """The compiled library, kept in the user's cache. Raises Unavailable."""
    compiler = os.environ.get("CXX") or shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        raise Unavailable("no C++ compiler (c++, g++ or clang++) compiles the fake CUDA device")
    spec = importlib.util.find_spec("torch")
    assert spec is not None
    assert spec.origin is not None
    torch = Path(spec.origin).parent
    if not (torch / "include" / "ATen").is_dir():
        raise Unavailable("this torch comes without its C++ headers")
    key = hashlib.sha256(f"{metadata.version('torch')}|{torch}|{SOURCE.read_text()}".encode()).hexdigest()[:16]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "p2p-dist-tests"
    built = cache / f"fake_cuda-{key}.so"
    if not built.exists():
        cache.mkdir(parents=True, exist_ok=True)
        _compile(compiler, torch, built)
    return built


def _compile(compiler: str, torch: Path, built: Path) -> None:
    with tempfile.TemporaryDirectory(dir=built.parent) as folder:
        unfinished = Path(folder) / built.name
        command = [compiler, "-std=c++20", "-O0", "-shared", "-fPIC", f"-I{torch / 'include'}", str(SOURCE)]
        command += ["-o", str(unfinished), f"-L{torch / 'lib'}", "-lc10", "-ltorch_cpu", f"-Wl,-rpath,{torch / 'lib'}"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise Unavailable(f"{compiler} could not compile the fake CUDA device: {last}")
        unfinished.replace(built)


def load() -> None:
    """Make this process's torch believe in one CUDA device. Call it before torch is imported. Raises Unavailable where
    torch has a real one."""
    ctypes.CDLL(str(compiled()))
    import torch

    if torch.backends.cuda.is_built():
        raise Unavailable("this torch has CUDA itself: its guard cannot be replaced")
    torch.cuda.get_device_name = lambda device=None: "Fake GPU"
    torch.Tensor.pin_memory = lambda self, device=None: self
    torch.cuda.get_device_properties = lambda device=None: SimpleNamespace(
        name="Fake GPU", multi_processor_count=132, total_memory=141_000_000_000
    )
