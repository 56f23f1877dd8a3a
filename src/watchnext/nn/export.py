"""Export a torch module as an OpenVINO network with named inputs, so that serving needs no torch."""

import warnings
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from watchnext.openvino_runtime import ops, ov


class _Named(nn.Module):
    """Adapt positional inputs, as tracing needs them, to the module's mapping."""

    def __init__(self, module: nn.Module, names: tuple[str, ...]) -> None:
        super().__init__()
        self.module, self.names = module, names

    def forward(self, *values: Tensor) -> Tensor:
        return self.module(dict(zip(self.names, values, strict=True)))


def export_graph(module: nn.Module, example: Mapping[str, Tensor], *, rows_vary: set[str], path: Path) -> None:
    """Write `path` (.xml) and its .bin. `module(inputs) -> Tensor`; inputs in `rows_vary` may have any number of rows.

    Empty and unread inputs are omitted. The same weights give the same bytes.
    """
    used = {name: value for name, value in example.items() if value.numel()}
    named = _Named(module, tuple(used)).eval()
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # OpenVINO traces through torch.jit
        # Ignore torch's shape checks of recurrent layers; data-dependent branches in our code still warn.
        warnings.filterwarnings("ignore", category=torch.jit.TracerWarning, module="torch.nn.modules.rnn")
        # Left to OpenVINO, torch would trace twice and compare; the release's parity compares other rows.
        traced = torch.jit.trace(named, tuple(used.values()), check_trace=False, strict=False)
        graph = ov.convert_model(traced, example_input=tuple(used.values()))
    # Tracing keeps the position of an input but not its name; unread inputs are dropped below.
    for port, (name, value) in zip(graph.inputs, used.items(), strict=True):
        port.get_tensor().set_names({name})
        shape = [-1 if axis == 0 and name in rows_vary else size for axis, size in enumerate(value.shape)]
        port.get_node().set_partial_shape(ov.PartialShape(shape))
    graph.validate_nodes_and_infer_types()
    for port in list(graph.inputs):
        if not port.get_target_inputs():
            graph.remove_parameter(port.get_node())
    _share(graph)
    _rename(graph, type(module).__name__)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    ov.save_model(graph, str(path), compress_to_fp16=False)


def _share(graph: ov.Model) -> None:
    """Split a layer over [repeated row | varying rows] into a sum: the repeated part runs once per request."""
    for layer in graph.get_ordered_ops():
        if layer.get_type_name() != "MatMul" or not layer.get_attributes()["transpose_b"]:
            continue
        joined, weights = (layer.input_value(position).get_node() for position in (0, 1))
        if joined.get_type_name() != "Concat" or weights.get_type_name() != "Constant":
            continue
        if len(joined.get_output_partial_shape(0)) != 2 or joined.get_attributes()["axis"] not in (1, -1):
            continue
        parts, at = ([], []), 0  # varying parts, repeated parts
        for part in joined.input_values():
            end, single = at + part.partial_shape[1].get_length(), _single(part)
            parts[single is not None].append((single or part, weights.get_data()[:, at:end]))
            at = end
        if all(parts):
            varying, shared = (_layer(read_by) for read_by in parts)
            layer.output(0).replace(ops.add(varying, shared).output(0))


def _single(rows: ov.Output) -> ov.Output | None:
    """Return the single row that is broadcast to `rows`, or None."""
    node = rows.get_node()
    once = node.get_type_name() == "Broadcast" and node.input_value(0).partial_shape[0] == ov.Dimension(1)
    return node.input_value(0) if once else None


def _layer(parts: list[tuple[ov.Output, np.ndarray]]) -> ov.Node:
    """Multiply the concatenated parts by their columns of the weights."""
    read, weights = zip(*parts, strict=True)
    joined = ops.concat(list(read), axis=1) if len(read) > 1 else read[0]
    return ops.matmul(joined, ops.constant(np.ascontiguousarray(np.concatenate(weights, axis=1))), False, True)


def _rename(graph: ov.Model, name: str) -> None:
    """Name nodes by position instead of by a process-wide counter, so that equal weights give equal bytes."""
    graph.set_friendly_name(name)
    for position, node in enumerate(graph.get_ordered_ops()):
        node.set_friendly_name(f"{node.get_type_name()}_{position}")
        if node.get_type_name() != "Parameter":
            for port in node.outputs():  # compiling may fold a node into its input, which would then carry both names
                port.get_tensor().set_names(set())
