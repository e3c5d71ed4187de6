"""Write and open an ONNX file: the network traced by torch, the view before it, names inside."""

import json
import logging
import warnings
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from deit_transfer import __version__
from deit_transfer.data.pipeline.image_ops import Pixels
from deit_transfer.export.onnx_view import INPUT, OPSET, join_view, view_graph
from deit_transfer.export.subject import ExportSubject, OpenedExport, TimmView
from deit_transfer.export.torch_program import exported_program
from deit_transfer.files import write_bytes_atomic

OUTPUT = "probabilities"


def write_onnx(subject: ExportSubject, path: Path, *, raw: bool) -> None:
    """Write the network in float32.

    Args:
        subject: The run.
        path: The file.
        raw: Leave the view out: the input is normalized images (B, 3, R, R) float32.
    """
    network = network_graph(subject)
    write_bytes_atomic(path, finished_file(subject, network, raw=raw))


def network_graph(subject: ExportSubject) -> Any:
    """Return the ONNX model from normalized images (B, 3, R, R), any B, to probabilities (B, K)."""
    exporter = logging.getLogger("torch.onnx")
    level = exporter.level
    exporter.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():  # of the exporter, about itself
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                exported_program(subject),
                dynamo=True,
                opset_version=OPSET,
                input_names=[INPUT],
                output_names=[OUTPUT],
                verbose=False,
            )
    finally:
        exporter.setLevel(level)
    assert program is not None
    model = program.model_proto
    for value in (model.graph.input[0], model.graph.output[0]):
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
    return model


def finished_file(subject: ExportSubject, network: Any, *, raw: bool) -> bytes:
    """Return the file's bytes, with class names and view as metadata."""
    from onnx import helper

    _strip(network.graph)
    model = network if raw else join_view(view_graph(subject), network)
    model.producer_name, model.producer_version = "deit-transfer", __version__
    taken = "normalized float32 (B, 3, R, R)" if raw else "photos, uint8 RGB (B, height, width, 3)"
    helper.set_model_props(
        model,
        {
            "class_names": json.dumps(list(subject.class_names)),
            "input": taken,
            "config": json.dumps(subject.config()),
        },
    )
    return model.SerializeToString()


def _strip(graph: Any) -> None:
    """Leave out the exporter's stack traces: a megabyte that names files of this machine."""
    for part in (graph, *graph.node, *graph.initializer, *graph.input, *graph.output):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
    graph.ClearField("value_info")


class OnnxExport(OpenedExport):
    """A file opened by onnxruntime on the CPU."""

    def __init__(self, path: Path) -> None:
        import onnxruntime

        onnxruntime.set_default_logger_severity(3)
        self.runtime = f"onnxruntime {onnxruntime.__version__}"
        self.session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        known = self.session.get_modelmeta().custom_metadata_map
        raw = self.session.get_inputs()[0].type != "tensor(uint8)"
        # without a view of its own it is asked as its metadata say
        self.view = TimmView(json.loads(known["config"])["pretrained_cfg"]) if raw else None

    def probabilities(self, photos: Sequence[Pixels]) -> NDArray[np.float32]:
        """Return the file's answers, (B, K); photos of one size in a row are one batch."""
        if self.view is not None:
            return self._run(self.view(photos).numpy())
        return np.concatenate([self._run(stack) for stack in _of_one_size(photos)])

    def _run(self, images: NDArray[Any]) -> NDArray[np.float32]:
        return self.session.run([OUTPUT], {INPUT: images})[0]


def _of_one_size(photos: Sequence[Pixels]) -> Iterator[Pixels]:
    for _, same in groupby(photos, key=lambda photo: photo.shape):
        yield np.stack(list(same))
