"""The evaluation view as a graph: photos (B, H, W, 3) uint8 in, normalized (B, 3, R, R) out.

The sizes are those of `data.pipeline.transforms.CenterTransform`, in whole numbers; the resize is
onnxruntime's antialiased bicubic on uint8, Pillow's arithmetic up to one gray level.
"""

import math
from typing import Any

import numpy as np

from deit_transfer.export.subject import ExportSubject

OPSET = 20  # the first with antialiased Resize is 18
IR_VERSION = 10
INPUT, NORMALIZED = "images", "normalized"


def view_graph(subject: ExportSubject) -> Any:
    """Return the ONNX model of the view."""
    from onnx import TensorProto, helper

    side = subject.classifier.resolution
    graph = _Graph()
    _add_sizes(graph, shorter=math.floor(side / subject.crop_pct), side=side)
    graph.add("Transpose", [INPUT], "channels_first", perm=[0, 3, 1, 2])
    graph.add("Concat", ["resized_h", "resized_w"], "resized", axis=0)
    graph.add(
        "Resize",
        ["channels_first", "", "", "resized"],
        "whole",
        axes=[2, 3],
        mode="cubic",
        antialias=1,
        cubic_coeff_a=-0.5,
        coordinate_transformation_mode="half_pixel",
        exclude_outside=1,
    )
    graph.add("Concat", ["top", "left"], "starts", axis=0)
    graph.add("Concat", ["bottom", "right"], "ends", axis=0)
    graph.constant("image_axes", np.array([2, 3], np.int64))
    graph.add("Slice", ["whole", "starts", "ends", "image_axes"], "cropped")
    graph.add("Cast", ["cropped"], "pixels", to=TensorProto.FLOAT)
    colors = np.array([subject.classifier.mean, subject.classifier.std], np.float32)
    graph.constant("mean", 255 * colors[0].reshape(1, 3, 1, 1))
    graph.constant("std", 255 * colors[1].reshape(1, 3, 1, 1))
    graph.add("Sub", ["pixels", "mean"], "centered")
    graph.add("Div", ["centered", "std"], NORMALIZED)
    shown = helper.make_tensor_value_info(INPUT, TensorProto.UINT8, ["batch", "height", "width", 3])
    normalized = helper.make_tensor_value_info(
        _inside(NORMALIZED), TensorProto.FLOAT, ["batch", 3, side, side]
    )
    made = helper.make_graph(graph.nodes, "view", [shown], [normalized], graph.constants)
    return helper.make_model(
        made, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION
    )


def join_view(view: Any, network: Any) -> Any:
    """Return one model of the view and the network behind it."""
    from onnx import checker, compose

    joined = compose.merge_models(
        view, network, io_map=[(_inside(NORMALIZED), network.graph.input[0].name)]
    )
    checker.check_model(joined)
    return joined


class _Graph:
    """Nodes and constants of a graph whose names cannot meet the network's."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def add(self, kind: str, inputs: list[str], output: str, **attributes: Any) -> None:
        from onnx import helper

        names = [_inside(name) for name in inputs]
        self.nodes.append(helper.make_node(kind, names, [_inside(output)], **attributes))

    def constant(self, name: str, value: Any) -> None:
        from onnx import numpy_helper

        self.constants.append(numpy_helper.from_array(np.asarray(value), _inside(name)))


def _inside(name: str) -> str:
    return name if name in ("", INPUT) else f"view/{name}"


def _add_sizes(graph: _Graph, *, shorter: int, side: int) -> None:
    """Compute the resized sides, and the margins of the center crop, rounded half to even."""
    from onnx import TensorProto

    graph.constant("shorter", np.array([shorter], np.int64))
    graph.constant("side", np.array([side], np.int64))
    graph.constant("half", np.array([0.5], np.float32))
    graph.add("Shape", [INPUT], "h", start=1, end=2)
    graph.add("Shape", [INPUT], "w", start=2, end=3)
    graph.add("Min", ["h", "w"], "short")
    for axis, begin, end in (("h", "top", "bottom"), ("w", "left", "right")):
        graph.add("Mul", ["shorter", axis], f"scaled_{axis}")
        graph.add("Div", [f"scaled_{axis}", "short"], f"resized_{axis}")
        graph.add("Sub", [f"resized_{axis}", "side"], f"margins_{axis}")
        graph.add("Cast", [f"margins_{axis}"], f"margins_float_{axis}", to=TensorProto.FLOAT)
        graph.add("Mul", [f"margins_float_{axis}", "half"], f"margin_float_{axis}")
        graph.add("Round", [f"margin_float_{axis}"], f"margin_{axis}")
        graph.add("Cast", [f"margin_{axis}"], begin, to=TensorProto.INT64)
        graph.add("Add", [begin, "side"], end)
