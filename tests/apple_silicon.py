"""A CPU that behaves like Apple's `mps`: it refuses float64, and does not mix with the CPU.

Tensors "on mps" are a subclass that says so and holds a tensor of the CPU. What torch cannot be
told here stays untested: which operations Metal has, and how it rounds.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import wraps

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

aten = torch.ops.aten
CPU, MPS = torch.device("cpu"), torch.device("mps:0")
NO_FLOAT64 = "Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support it"


class OnMps(Tensor):
    """A tensor on "mps"; `inner` holds its numbers."""

    @staticmethod
    def __new__(cls, inner: Tensor) -> "OnMps":
        if inner.dtype in (torch.float64, torch.complex128):
            raise TypeError(NO_FLOAT64)
        made = Tensor._make_wrapper_subclass(
            cls,
            inner.shape,
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
        )
        made.inner = inner
        return made

    device = property(lambda self: MPS)
    is_cpu = property(lambda self: False)

    def __repr__(self, **_) -> str:
        return f"OnMps({self.inner!r})"

    def __reduce_ex__(self, protocol):
        return self.inner.__reduce_ex__(protocol)

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return called(func, args, kwargs or {})


def called(func, args, kwargs):
    """Call an operation on the tensors inside; refuse what a Mac would."""
    device = kwargs.get("device")
    tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
    mine = [x for x in tensors if isinstance(x, OnMps)]
    others = [x for x in tensors if not isinstance(x, OnMps)]
    name, result_is_mine = func._schema.name, bool(mine)
    if device is not None:
        result_is_mine = torch.device(device).type == "mps"
        kwargs = {**kwargs, "device": CPU}
    if name == "aten::copy_":
        if isinstance(args[1], OnMps) and args[0].dtype == torch.float64:
            raise TypeError(NO_FLOAT64)
    elif name == "aten::_to_copy":
        if mine and kwargs.get("dtype") == torch.float64:  # Metal would have to write it
            raise TypeError(NO_FLOAT64)
    elif mine and others and name != "aten::index.Tensor":
        in_place = func._schema.is_mutable and any(x is args[0] for x in others)
        if in_place or any(x.ndim for x in others):
            raise RuntimeError(f"{name}: Expected all tensors to be on the same device: mps, cpu")
    inside = {id(x.inner): x for x in mine}

    def wrapped(x):
        if not isinstance(x, Tensor) or not result_is_mine:
            return x
        return inside[id(x)] if id(x) in inside else OnMps(x)

    if name == "aten::copy_":
        inner_of(args[0]).copy_(inner_of(args[1]))
        return args[0]
    return tree_map(wrapped, func(*tree_map(inner_of, args), **tree_map(inner_of, kwargs)))


def inner_of(x):
    return x.inner if isinstance(x, OnMps) else x


class Operations(TorchDispatchMode):
    """Operations that make a tensor on "mps" of none."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return called(func, args, kwargs or {})


class Moves(TorchFunctionMode):
    """`to`, `cpu`, `numpy`: torch itself takes all tensors here for the CPU's."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func in (Tensor.numpy, Tensor.__array__) and isinstance(args[0], OnMps):
            raise TypeError("can't convert mps:0 device type tensor to numpy")
        if func is torch.nn.functional.one_hot and isinstance(args[0], OnMps):
            return OnMps(func(args[0].inner, *args[1:], **kwargs))  # it makes a tensor by itself
        if func is Tensor.tolist:
            return inner_of(args[0]).tolist()
        if func is torch.as_tensor and isinstance(args[0], Tensor):
            func = Tensor.to
        if func is Tensor.cpu:
            func, args = Tensor.to, (args[0], CPU)
        if func is Tensor.to:
            like = args[1] if len(args) > 1 else None
            if isinstance(like, Tensor):
                device, dtype = like.device, like.dtype
            else:
                device, dtype, _, _ = torch._C._nn._parse_to(*args[1:], **kwargs)
            if device is not None and device.type != args[0].device.type:
                dtype = dtype or args[0].dtype
                return aten._to_copy.default(args[0], dtype=dtype, device=device)
        return func(*args, **kwargs)


@contextmanager
def apple_silicon(monkeypatch) -> Iterator[None]:
    """Let there be a device "mps" while the block runs."""
    here = wraps(torch.backends.mps.is_available)(lambda: True)
    monkeypatch.setattr(torch.backends.mps, "is_available", here)
    monkeypatch.setattr(torch.mps, "get_rng_state", lambda *_: torch.get_rng_state())
    monkeypatch.setattr(torch.mps, "set_rng_state", lambda state, *_: None)
    swaps = torch.__future__.get_swap_module_params_on_conversion()
    torch.__future__.set_swap_module_params_on_conversion(True)
    try:
        with Operations(), Moves():
            yield
    finally:
        torch.__future__.set_swap_module_params_on_conversion(swaps)
