"""Write and open a torch.export program: normalized images in, probabilities out."""

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from deit_transfer.data.pipeline.image_ops import Pixels
from deit_transfer.export.subject import ExportSubject, OpenedExport, ScoredNetwork, TimmView
from deit_transfer.files import write_bytes_atomic

CONFIG = "config.json"  # beside the program, in the same archive


def write_torch_program(subject: ExportSubject, path: Path) -> None:
    """Write a `.pt2` with any batch size, and timm's `config.json` in it."""
    program = exported_program(subject)
    content = io.BytesIO()
    torch.export.save(program, content, extra_files={CONFIG: json.dumps(subject.config())})
    write_bytes_atomic(path, content.getvalue())


def exported_program(subject: ExportSubject) -> torch.export.ExportedProgram:
    """Trace the network with normalized images (B, 3, R, R), any B."""
    side = subject.classifier.resolution
    example = torch.zeros(2, 3, side, side)
    shapes: Any = ({0: torch.export.Dim("batch")},)
    program = torch.export.export(
        ScoredNetwork(subject.classifier).eval(), (example,), dynamic_shapes=shapes
    )
    for node in program.graph.nodes:  # they name files of this machine
        node.meta.pop("stack_trace", None)
    return program


class TorchExport(OpenedExport):
    """A program opened by `torch.export.load`, which knows nothing of this package."""

    def __init__(self, path: Path) -> None:
        self.runtime = f"torch.export, torch {torch.__version__}"
        found = {CONFIG: ""}
        self.network = torch.export.load(path, extra_files=found).module()
        self.view = TimmView(json.loads(found[CONFIG])["pretrained_cfg"])

    @torch.no_grad()
    def probabilities(self, photos: Sequence[Pixels]) -> NDArray[np.float32]:
        """Return the program's answers, (B, K)."""
        return self.network(self.view(photos)).numpy()
