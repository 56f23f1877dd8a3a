"""A second device on a machine without one: tensors elsewhere, which compute, and which refuse what a GPU refuses.

Inside `FakeDevice()`, tensors moved to ELSEWHERE are such tensors. An operation on tensors of both places raises, but for those
that torch allows: numbers without dimensions, and indices in the memory of the processor. So does `numpy()`.
"""

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

ELSEWHERE = torch.device("meta")
aten = torch.ops.aten
INDEXED = (aten.index.Tensor, aten.index_put.default, aten.index_put_.default, aten._index_put_impl_.default)
MOVES = (aten._to_copy.default, aten.copy_.default, aten._local_scalar_dense.default)


class Elsewhere(torch.Tensor):
    """Tensor on the fake device; `values` are its numbers."""

    values: torch.Tensor

    @staticmethod
    def __new__(cls, values: torch.Tensor) -> "Elsewhere":
        return torch.Tensor._make_wrapper_subclass(
            cls, values.size(), values.stride(), values.storage_offset(), dtype=values.dtype, device=ELSEWHERE
        )

    def __init__(self, values: torch.Tensor) -> None:
        self.values = values

    def tolist(self) -> list:  # torch refuses it to every subclass
        return self.values.tolist()

    @classmethod
    def __torch_dispatch__(cls, operation, types, arguments=(), keywords=None):
        return computed(operation, arguments, keywords or {})


class FakeDevice(TorchDispatchMode):
    def __torch_dispatch__(self, operation, types, arguments=(), keywords=None):
        return computed(operation, arguments, keywords or {})


def computed(operation, arguments: tuple, keywords: dict):
    given = [each for each in tree_leaves((arguments, keywords)) if isinstance(each, torch.Tensor)]
    elsewhere = any(isinstance(each, Elsewhere) for each in given)
    beside = arguments[:1] if operation in INDEXED else (arguments, keywords)
    strangers = [each for each in tree_leaves(beside) if isinstance(each, torch.Tensor) and not isinstance(each, Elsewhere)]
    if elsewhere and operation not in MOVES and any(each.dim() for each in strangers):
        raise RuntimeError(f"{operation} got tensors of two devices")
    if operation in INDEXED and not isinstance(arguments[0], Elsewhere) and elsewhere:
        raise RuntimeError(f"{operation} got indices of another device")
    device = keywords.get("device")
    if device is not None:
        elsewhere = torch.device(device) == ELSEWHERE
        keywords = {**keywords, "device": torch.device("cpu")}
    plain = tree_map(lambda each: each.values if isinstance(each, Elsewhere) else each, (arguments, keywords))
    result = operation(*plain[0], **plain[1])
    known = {id(each.values): each for each in given if isinstance(each, Elsewhere)}  # what was computed in place

    def placed(each):
        if not elsewhere or not isinstance(each, torch.Tensor):
            return each
        return known[id(each)] if id(each) in known else Elsewhere(each)

    return result if operation is aten._local_scalar_dense.default else tree_map(placed, result)
