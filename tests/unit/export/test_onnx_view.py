"""The graph's view is that of the program, to one gray level on few pixels."""

import numpy as np
import pytest

from deit_transfer.data.pipeline.transforms import eval_transform
from deit_transfer.export.onnx_view import view_graph
from deit_transfer.export.subject import ExportSubject
from deit_transfer.models.classifier import build_classifier

onnxruntime = pytest.importorskip("onnxruntime")


@pytest.mark.parametrize("crop_pct", [1.0, 0.9, 0.8])
def test_the_view_is_pillows(crop_pct: float) -> None:
    classifier = build_classifier(name="deit_micro", num_classes=3, resolution=32)
    classifier.mean, classifier.std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    subject = ExportSubject(
        name="run",
        classifier=classifier,
        class_names=("a", "b", "c"),
        crop_pct=crop_pct,
        images=None,  # type: ignore[arg-type]
    )
    session = onnxruntime.InferenceSession(view_graph(subject).SerializeToString())
    view = eval_transform(resolution=32, crop_pct=crop_pct)
    rng = np.random.default_rng(0)
    for height, width in ((32, 32), (100, 75), (41, 57), (20, 33), (64, 301), (35, 36)):
        photo = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        (found,) = session.run(None, {"images": np.stack([photo, photo])})
        assert found.shape == (2, 3, 32, 32)
        apart = np.abs(255 * found[1].transpose(1, 2, 0) - view(photo).astype(np.float32))
        assert apart.max() < 1.01
        assert np.mean(apart > 0.01) < 0.005
