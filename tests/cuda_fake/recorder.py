"""Everything that a piece of work asks of the fake GPU: operations, synchronisations, bytes held, and host tensors."""

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any
from unittest.mock import patch

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from bench.operations import VIEWS
from tests.storages import Storages

NOT_LAUNCHED = VIEWS | {"device", "empty", "empty_like", "new_empty", "empty_strided", "_record_function_enter_new"}
NOT_LAUNCHED |= {"_record_function_exit", "is_same_size", "_local_scalar_dense"}
"""Operations that start no kernel."""
BLOCKING = frozenset({"nonzero", "masked_select", "unique", "_unique2", "equal", "is_nonzero"})
"""Operations whose result has a size or value that the host waits for."""


class Recorder(TorchDispatchMode):
    """Counts while it is on. `storages` are those on the GPU that were made while it was on."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: Counter[str] = Counter()
        self.synchronisations: Counter[str] = Counter()
        self.host_floats: Counter[str] = Counter()
        self.shapes: set[str] = set()
        self.storages = Storages()

    def reset(self) -> None:
        """Count anew; what is held stays held."""
        for counter in (self.operations, self.synchronisations, self.host_floats):
            counter.clear()
        self.shapes.clear()
        self.storages.peak = self.storages.held

    @contextlib.contextmanager
    def graphs(self) -> Iterator[None]:
        """CUDA graphs inside the block: one operation each time that one is repeated."""
        from p2p_dist.training import pass_graphs

        recorder, plain = self, pass_graphs.CudaGraph

        class Graph:
            """A pass that asks nothing of the host."""

            pool = None

            def __init__(self, compute: Callable[[], torch.Tensor], pool: Any) -> None:
                with _OnTheGpu():
                    self.losses = compute()

            def replay(self) -> None:
                recorder.operations["a graph"] += 1

        pass_graphs.CudaGraph = Graph  # type: ignore[assignment,misc]
        try:
            yield
        finally:
            pass_graphs.CudaGraph = plain  # type: ignore[misc]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name, kwargs = func.overloadpacket.__name__, kwargs or {}
        if name == "device":
            return func(*args, **kwargs)
        inputs = [each for each in tree_iter((args, kwargs)) if isinstance(each, torch.Tensor)]
        if name == "_local_scalar_dense":
            self._note_wait(name, inputs[0])
            return _value(inputs[0])
        if kwargs.get("generator") is not None:
            kwargs = {**kwargs, "generator": None}
        outputs = func(*args, **kwargs)
        made = [each for each in tree_iter(outputs) if isinstance(each, torch.Tensor)]
        self._note_copy(name, inputs, made, args, kwargs)
        for tensor in made:
            if tensor.device.type == "cuda":
                self.storages.note(tensor)
            if tensor.device.type == "cpu" and tensor.is_floating_point() and tensor.numel() > 1:
                self.host_floats[name] += 1
        if name not in NOT_LAUNCHED and any(tensor.device.type == "cuda" for tensor in (*inputs, *made)):
            self.operations[name] += 1
            self.shapes.add(f"{name} {[tuple(tensor.shape) for tensor in inputs]}")
        return outputs

    def _note_wait(self, name: str, tensor: torch.Tensor) -> None:
        if tensor.device.type == "cuda":
            self.synchronisations[name] += 1

    def _note_copy(self, name: str, inputs: list[Any], made: list[Any], args: Any, kwargs: Any) -> None:
        """Count copies between host and GPU that the host waits for."""
        kinds = {tensor.device.type for tensor in (*inputs[:2], *made)}
        if name in BLOCKING and "cuda" in kinds:
            self.synchronisations[name] += 1
        elif name in ("_to_copy", "copy_") and kinds == {"cpu", "cuda"}:
            to_host = made[0].device.type == "cpu"
            blocks = not (kwargs.get("non_blocking") or (name == "copy_" and len(args) > 2 and args[2]))
            if (to_host or blocks) and made[0].numel() and inputs[-1].dim() + made[0].dim():
                self.synchronisations["to the host" if to_host else "to the GPU"] += 1


def counts(recorder: Recorder) -> dict[str, Any]:
    """Everything counted since the last `reset`, as JSON."""
    return {
        "operations": recorder.operations.total(),
        "most": dict(recorder.operations.most_common(12)),
        "names": sorted(recorder.operations),
        "synchronisations": dict(recorder.synchronisations),
        "host_floats": dict(recorder.host_floats),
        "peak": recorder.storages.peak,
    }


class _OnTheGpu(TorchDispatchMode):
    """Refuses operations that a CUDA graph cannot hold: those that read or write the host's memory."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        outputs = func(*args, **(kwargs or {}))
        tensors = [each for each in tree_iter((args, kwargs, outputs)) if isinstance(each, torch.Tensor)]
        on_host = [each for each in tensors if each.device.type == "cpu" and each.dim()]
        if on_host or func.overloadpacket.__name__ in BLOCKING | {"_local_scalar_dense"}:
            raise AssertionError(f"{func} is in a recorded pass: {[tuple(each.shape) for each in on_host]}")
        return outputs


def _value(tensor: torch.Tensor) -> Any:
    """A value where the host reads one."""
    return True if tensor.dtype == torch.bool else 1.0 if tensor.is_floating_point() else 1


@contextlib.contextmanager
def fake_gpu() -> Iterator[Recorder]:
    """Fake tensors inside the block, with a recorder on them; the host reads ones, and waits once to read a tensor."""
    from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

    recorder = Recorder()
    plain = FakeTensor.tolist

    def read(tensor: torch.Tensor) -> Any:
        recorder._note_wait("tolist", tensor)
        value: Any = _value(tensor)
        for size in reversed(tensor.shape):
            value = [value] * size
        return value

    FakeTensor.tolist = read  # type: ignore[method-assign]
    try:
        with FakeTensorMode(allow_non_fake_inputs=True), recorder, kernels():
            yield recorder
    finally:
        FakeTensor.tolist = plain  # type: ignore[method-assign]


class _Norm(torch.autograd.Function):
    """CUDA's RMS norm: one kernel forward, which keeps its input and a number per row, and one backward."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x, x.new_empty(x.shape[:-1], dtype=torch.float32))
        return x.clone()

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None]:
        return grad.clone(), None


class _Silu(torch.autograd.Function):
    """CUDA's SiLU: one kernel each way."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x)
        return x.clone()

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> torch.Tensor:
        return grad * ctx.saved_tensors[0]


@contextlib.contextmanager
def kernels() -> Iterator[None]:
    """The kernels that torch has for CUDA alone, in whose place a CPU's torch would count their formulas: attention
    (of variable length, flash without a mask, memory-efficient with one), RMS norm and SiLU."""
    from p2p_dist.modeling import attention, fused_norms, fused_swiglu, guard, varlen_attention

    def chosen(query: Any, key: Any, value: Any, attn_mask: Any = None, is_causal: bool = False, **others: Any) -> Any:
        scale = others.get("scale")
        if attn_mask is None:
            return torch.ops.aten._scaled_dot_product_flash_attention(query, key, value, 0.0, is_causal, scale=scale)[0]
        if query.shape[1] != key.shape[1]:
            shared = query.shape[1] // key.shape[1]
            key, value = (each.repeat_interleave(shared, dim=1) for each in (key, value))
        bias = torch.where(attn_mask, 0.0, -torch.inf).to(query.dtype).expand(*query.shape[:3], key.shape[2])
        kernel = torch.ops.aten._scaled_dot_product_efficient_attention
        return kernel(query, key, value, bias, True, 0.0, is_causal, scale=scale)[0]

    def silu(x: torch.Tensor, inplace: bool = False) -> Any:
        return _Silu.apply(x)

    in_place: list[tuple[Any, str, Callable[..., Any]]] = [
        (attention, "scaled_dot_product_attention", chosen),
        (fused_norms, "rms_norm", lambda x, shape, weight, eps: _Norm.apply(x, weight)),
        (varlen_attention, "is_right", lambda *heads: True),  # a fake tensor has no numbers that would prove it
        (guard, "difference", lambda ours, expected: 0.0),
        (torch.nn.functional, "silu", silu),
        (fused_swiglu, "silu", silu),
        (fused_swiglu, "silu_backward_", lambda grad, x: grad.mul_(x)),
    ]
    with contextlib.ExitStack() as patches:
        for module, name, kernel in in_place:
            patches.enter_context(patch.object(module, name, kernel))
        yield
