"""The exported graph: what a viewer's row costs it."""

from importlib import import_module

import numpy as np
import torch
from torch import nn

from watchnext.nn.export import export_graph
from watchnext.openvino_runtime import ov


class Joined(nn.Module):
    """Layers over [two numbers of the viewer | three of the candidate | one of the viewer], as rankers have."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.crossed = nn.Linear(6, 5), nn.Linear(6, 2, bias=False)

    def forward(self, inputs: dict) -> torch.Tensor:
        rows = inputs["video"].shape[0]
        query, own = inputs["query"].expand(rows, -1), inputs["own"].expand(rows, -1)
        features = torch.cat([query, inputs["video"], own], dim=-1)
        return torch.cat([self.first(features).relu(), self.crossed(features) * features.sum(-1, keepdim=True)], dim=-1)


def test_a_layer_reads_the_viewers_row_once_whatever_the_number_of_candidates(tmp_path):
    torch.manual_seed(0)
    network = Joined().eval()
    example = {"query": torch.randn(1, 2), "video": torch.randn(3, 3), "own": torch.randn(1, 1)}
    export_graph(network, example, rows_vary={"video"}, path=tmp_path / "graph.xml")
    graph = ov.Core().read_model(tmp_path / "graph.xml")
    products = [node for node in graph.get_ordered_ops() if node.get_type_name() == "MatMul"]
    read = sorted(str(node.input_value(0).partial_shape) for node in products)
    assert read == ["[1,3]", "[1,3]", "[?,3]", "[?,3]"]
    compiled = ov.Core().compile_model(graph, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    for rows in (1, 7):
        inputs = {"query": torch.randn(1, 2), "video": torch.randn(rows, 3), "own": torch.randn(1, 1)}
        found = compiled({name: values.numpy() for name, values in inputs.items()})[0]
        np.testing.assert_allclose(found, network(inputs).detach().numpy(), rtol=1e-5, atol=1e-5)


def test_openvino_reports_nothing_to_its_makers():
    reporter = import_module("openvino.tools.ovc.telemetry_utils").tm
    assert reporter.__name__ == "openvino.tools.ovc.telemetry_stub"
