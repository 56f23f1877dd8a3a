"""OpenVINO without its telemetry, which reports every import and conversion to its makers, and which no variable stops."""

import sys

sys.modules.setdefault("openvino_telemetry", None)  # it then takes the stub that it has for an absent package

import openvino as ov  # noqa: E402
import openvino.opset13 as ops  # noqa: E402

__all__ = ["ops", "ov"]
