"""Quantize the network of an ONNX file to 8 bits, in the way that loses least.

Two ways are tried on the calibration images: *static* (weights and activations of matrix products
and convolutions, ranges from the images) and *dynamic* (weights once, activations as they come).
"""

import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deit_transfer.data.pipeline.image_ops import Pixels
from deit_transfer.export.onnx_file import OUTPUT, finished_file, network_graph
from deit_transfer.export.onnx_view import INPUT
from deit_transfer.export.subject import ExportSubject, TimmView, photos_of
from deit_transfer.files import write_bytes_atomic

CALIBRATION_IMAGES = 128  # a guess: ranges of minimum and maximum change little beyond
PASS = 16


def write_onnx_int8(subject: ExportSubject, path: Path, *, raw: bool) -> str:
    """Write the quantized file, and return which way was taken and why."""
    import onnx

    shown = _calibration(subject)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        onnx.save(network_graph(subject), str(place / "float32.onnx"))
        expected = _answers(place / "float32.onnx", shown)
        quantized = {"static": _static(place, shown), "dynamic": _dynamic(place)}
        kept = {way: _agreement(expected, _answers(file, shown)) for way, file in quantized.items()}
        way = max(kept, key=lambda name: kept[name])
        network = onnx.load(str(quantized[way]))
    write_bytes_atomic(path, finished_file(subject, network, raw=raw))
    told = " and ".join(f"{name} {percent:.1f}%" for name, percent in kept.items())
    return (
        f"quantized the {way} way: of {len(shown)} calibration images, so many are decided as in "
        f"float32: {told}"
    )


def _calibration(subject: ExportSubject) -> NDArray[np.float32]:
    """Return normalized images (N, 3, R, R), spread over the split."""
    count = min(CALIBRATION_IMAGES, len(subject.images))
    spread = np.unique(np.linspace(0, len(subject.images) - 1, count).astype(np.int64))
    view = TimmView(subject.config()["pretrained_cfg"])
    photos: list[Pixels] = list(chain.from_iterable(photos_of(subject.images.subset(spread))))
    return view(photos).numpy()


def _static(place: Path, shown: NDArray[np.float32]) -> Path:
    from onnxruntime import quantization

    class Calibration(quantization.CalibrationDataReader):
        def __init__(self) -> None:
            self.parts = iter(np.array_split(shown, -(-len(shown) // PASS)))

        def get_next(self) -> Any:
            part = next(self.parts, None)
            return None if part is None else {INPUT: part}

    path = place / "static.onnx"
    with _quiet():
        quantization.quantize_static(
            str(place / "float32.onnx"),
            str(path),
            Calibration(),
            op_types_to_quantize=["MatMul", "Gemm", "Conv"],
            per_channel=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
        )
    return path


def _dynamic(place: Path) -> Path:
    from onnxruntime import quantization

    path = place / "dynamic.onnx"
    with _quiet():
        quantization.quantize_dynamic(
            str(place / "float32.onnx"),
            str(path),
            op_types_to_quantize=["MatMul"],
            per_channel=True,
            weight_type=quantization.QuantType.QInt8,
        )
    return path


@contextmanager
def _quiet() -> Iterator[None]:
    """Leave out what the quantizer advises through the root logger."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


def _answers(path: Path, shown: NDArray[np.float32]) -> NDArray[np.float32]:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    parts = np.array_split(shown, -(-len(shown) // PASS))
    return np.concatenate([session.run([OUTPUT], {INPUT: part})[0] for part in parts])


def _agreement(expected: NDArray[np.float32], answers: NDArray[np.float32]) -> float:
    return 100 * float(np.mean(expected.argmax(axis=1) == answers.argmax(axis=1)))
