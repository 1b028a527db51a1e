"""Bytes of the tensors that are held at once."""

import time
import weakref
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

PATIENCE_SECONDS = 2.0
"""Longest wait for threads of a process group to let go of what was sent."""


class Storages:
    """Storages that were noted, until they are freed. `peak` is the most bytes at once. What goes beyond `suspicious`
    bytes may have been let go of by other threads meanwhile, and is waited for."""

    def __init__(self, suspicious: int | None = None) -> None:
        self.suspicious = suspicious
        self.held = self.peak = 0
        self._known: dict[int, weakref.ref[Any]] = {}

    def note(self, tensor: torch.Tensor) -> None:
        """Count the storage of a tensor, if it is new."""
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._known:
            return
        size = storage.nbytes()
        self._known[key] = weakref.ref(storage, lambda _: self._release(key, size))
        self.held += size
        deadline = time.monotonic() + PATIENCE_SECONDS
        while self.suspicious is not None and self.held > self.suspicious and time.monotonic() < deadline:
            time.sleep(0.001)
        self.peak = max(self.peak, self.held)

    def _release(self, key: int, size: int) -> None:
        self._known.pop(key, None)
        self.held -= size


class Watch(TorchDispatchMode):
    """Notes the storages of all tensors that are made while it is on."""

    def __init__(self, storages: Storages) -> None:
        super().__init__()
        self.storages = storages

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        outputs = func(*args, **(kwargs or {}))
        inputs = {each.untyped_storage()._cdata for each in tree_iter((args, kwargs)) if isinstance(each, torch.Tensor)}
        for each in tree_iter(outputs):
            if isinstance(each, torch.Tensor) and each.untyped_storage()._cdata not in inputs:
                self.storages.note(each)
        return outputs
