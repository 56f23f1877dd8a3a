"""Run exported networks with OpenVINO: named arrays in, one array out; and a ranker, which may have trees beside it."""

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from watchnext.openvino_runtime import ov
from watchnext.ranking.models.trees.forest import INPUT, Forest

TREES = "trees"  # the folder of a ranker's trees, beside its network


@cache
def core() -> ov.Core:
    """Return the one core of this process, which it keeps.

    A core gives the thread that makes it a stack for signals, and takes it away when the last network of the core goes: where a
    release was replaced, the next signal then ended the process by SIGSEGV.
    """
    return ov.Core()


class CompiledNetwork:
    """Compile `<path>.xml`, with its weights beside it, for the CPU. Any thread may call it: each has its own request.

    precision  f32 or bf16, always set explicitly: by default, a processor with bf16 would give other scores than those that
               were evaluated
    many       let all inputs have any number of rows, one a viewer, instead of those in the file; a row's output is the same
               whatever the number
    """

    def __init__(self, path: Path, *, threads: int = 1, precision: str = "f32", many: bool = False) -> None:
        options = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": precision, "PERFORMANCE_HINT": "LATENCY"}
        network = core().read_model(str(path))
        if many:
            network.reshape({port: ov.PartialShape([-1, *list(port.partial_shape)[1:]]) for port in network.inputs})
        self._compiled = core().compile_model(network, "CPU", options)
        self._types = {port.get_any_name(): port.get_element_type().to_dtype() for port in self._compiled.inputs}
        self._local = threading.local()

    @property
    def inputs(self) -> tuple[str, ...]:
        return tuple(self._types)

    def __call__(self, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
        """Return the first output. Inputs that the network lacks are ignored; a missing one raises KeyError."""
        if missing := self._types.keys() - inputs.keys():
            raise KeyError(f"the network needs {', '.join(sorted(missing))}, but got {', '.join(sorted(inputs))}")
        request, kept = self._request()
        # `infer(inputs)` finds out about every input again, which takes as long as a tenth of the ranker; a tensor for each
        # input takes as long as a twentieth, so what always has the same shape is copied into tensors that are kept.
        fed = [(position, _fed(inputs[name], dtype)) for position, (name, dtype) in enumerate(self._types.items())]
        for position, values in fed:
            if (tensor := kept.get(position)) is not None and tensor.shape == values.shape:
                tensor[...] = values
            else:
                request.set_input_tensor(position, ov.Tensor(values, shared_memory=True))
        request.infer()
        return request.get_output_tensor(0).data.copy()  # the request's buffer is overwritten by its next call

    def _request(self) -> tuple[ov.InferRequest, dict[int, np.ndarray]]:
        """Return this thread's request, and by position the tensors of inputs with a fixed shape."""
        if not hasattr(self._local, "request"):
            request, kept = self._compiled.create_infer_request(), {}
            for position, port in enumerate(self._compiled.inputs):
                if port.partial_shape.is_static:
                    kept[position] = np.zeros(port.shape, port.get_element_type().to_dtype())
                    request.set_input_tensor(position, ov.Tensor(kept[position], shared_memory=True))
            self._local.request = request, kept
        return self._local.request


def _fed(values: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Return the values as a network takes them: what `np.require` would find out in ten times the time is most often so."""
    if values.dtype == dtype and values.flags.c_contiguous and values.flags.writeable:
        return values
    return np.require(values, dtype, ("C", "W"))


@dataclass(frozen=True)
class CompiledRanker:
    """Inputs > predictions (C, T). Trees, which are slow inside a network, are scored first and passed to it as an input."""

    network: CompiledNetwork
    forest: Forest | None

    @classmethod
    def load(cls, folder: Path, *, precision: str = "f32") -> "CompiledRanker":
        """Load `ranker.xml` in `folder` with the trees beside it; `precision` as in `CompiledNetwork`."""
        trees = Path(folder) / TREES
        network = CompiledNetwork(Path(folder) / "ranker.xml", precision=precision)
        return cls(network, Forest.load(trees) if trees.exists() else None)

    def __call__(self, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
        return self.network({**inputs, INPUT: self.forest(inputs)} if self.forest else inputs)
