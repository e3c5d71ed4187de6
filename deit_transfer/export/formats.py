"""What each format of an export is called, holds, needs and refuses; knows no torch."""

import importlib.util
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deit_transfer.errors import CheckpointError, UsageError, did_you_mean
from deit_transfer.models.variants import VARIANTS
from deit_transfer.runs.folder import RunFolder, open_run

EXPORTS = "exported"  # folder within the run where exports lie that have no --out
MODEL_FILE_OF_RUN = "model.json"  # written last by a run whose weights are there

# https://huggingface.co/docs/huggingface_hub: validate_repo_id, with the owner required
_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")

ONNX_PACKAGES = ("onnx", "onnxscript", "onnxruntime")


@dataclass(frozen=True, kw_only=True)
class ExportFormat:
    """A format, and how its runtime answers.

    `suffix` is empty for a folder. `averages_logits`: of a distilled network, the runtime averages
    the heads' logits, where this program averages their probabilities. `resizes`: the file resizes
    images by code that is not Pillow's.
    """

    name: str
    holds: str
    suffix: str = ""
    packages: tuple[str, ...] = ()
    extra: str = ""
    deit_only: bool = False
    averages_logits: bool = False
    resizes: bool = False


FORMATS = {
    one.name: one
    for one in (
        ExportFormat(
            name="timm",
            holds="a folder for timm.create_model('local-dir:...') and the hub",
            averages_logits=True,
        ),
        ExportFormat(
            name="hf",
            holds="a folder for transformers' own ViT and DeiT",
            packages=("transformers",),
            extra="hf",
            deit_only=True,
            averages_logits=True,
            resizes=True,
        ),
        ExportFormat(
            name="deit",
            holds="a checkpoint for the paper's main.py --eval --resume",
            suffix=".pth",
            deit_only=True,
            averages_logits=True,
        ),
        ExportFormat(
            name="onnx",
            holds="one ONNX file: photos in, probabilities out",
            suffix=".onnx",
            packages=ONNX_PACKAGES,
            extra="onnx",
            resizes=True,
        ),
        ExportFormat(
            name="onnx-int8",
            holds="the same with 8-bit weights",
            suffix="-int8.onnx",
            packages=ONNX_PACKAGES,
            extra="onnx",
            resizes=True,
        ),
        ExportFormat(name="torch", holds="a torch.export program", suffix=".pt2"),
    )
}


def find_format(name: str) -> ExportFormat:
    """Return a format by its name; raises UsageError with the choices."""
    if name not in FORMATS:
        raise UsageError(
            f"--to {name}: there is no such format; choose from {', '.join(FORMATS)}",
            hint=did_you_mean(name, FORMATS) or "deit-transfer export RUN --to onnx",
        )
    return FORMATS[name]


def check_export(run: Path, name: str, *, raw: bool) -> None:
    """Refuse, before torch is imported, what cannot be exported.

    Raises:
        DataError: The folder is no run.
        CheckpointError: The run has not finished.
        UsageError: The format is unknown, does not know this network, or its package is missing.
    """
    wanted = find_format(name)
    if raw and not name.startswith("onnx"):
        raise UsageError(
            f"--raw is for ONNX: {name} holds the network without its preprocessing as it is",
            hint="Leave --raw out, or use --to onnx",
        )
    network = finished_run(run).read_json(MODEL_FILE_OF_RUN).get("model", "")
    if wanted.deit_only and not (network in VARIANTS and VARIANTS[network].is_deit):
        raise UsageError(
            f"{run} is a {network}, and --to {name} holds DeiT networks only",
            hint=f"deit-transfer export {run} --to timm",
        )
    check_packages(wanted.packages, extra=wanted.extra, what=f"--to {name}")


def finished_run(run: Path) -> RunFolder:
    """Return a run whose weights are there; raises CheckpointError where they are not yet."""
    folder = open_run(run)
    if not (folder.path / MODEL_FILE_OF_RUN).is_file():
        state = folder.status().get("state", "not done")
        raise CheckpointError(
            f"{run} has not finished: it is {state}, and there are no final weights",
            hint="Run the command that began it again with --resume",
        )
    return folder


def check_packages(packages: Sequence[str], *, extra: str, what: str) -> None:
    """Raise UsageError, with the command that installs it, where a package is missing."""
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        raise UsageError(
            f"{what} needs {' and '.join(missing)}, which {_is(missing)} not installed",
            hint=f"pip install 'deit-transfer[{extra}]'",
        )


def check_repository(repository: str) -> None:
    """Raise UsageError where a name is no OWNER/NAME."""
    if not _REPOSITORY.fullmatch(repository):
        raise UsageError(
            f"'{repository}' is not the name of a repository: it must be OWNER/NAME, of letters, "
            "digits, '-', '_' and '.'",
            hint="For example: deit-transfer push RUN myname/my-flowers",
        )


def export_path(run: Path, wanted: ExportFormat, out: Path | None) -> Path:
    """Return where an export is put: `out`, or a place in the run's own folder."""
    if out is not None:
        return out
    name = f"{run.resolve().name}{wanted.suffix}" if wanted.suffix else wanted.name
    return run / EXPORTS / name


def loading_lines(wanted: ExportFormat, path: Path, *, raw: bool) -> list[str]:
    """Return Python that opens an export and asks it about photo.jpg."""
    place = str(path)
    lines: dict[str, list[str]] = {
        "timm": [
            "import timm",
            f"model = timm.create_model({'local-dir:' + place!r}, pretrained=True).eval()",
            "view = timm.data.create_transform(**timm.data.resolve_model_data_config(model))",
        ],
        "hf": [
            "from transformers import pipeline",
            f"classify = pipeline('image-classification', {place!r})",
            "print(classify('photo.jpg'))",
        ],
        "deit": [
            "import torch, timm",
            f"saved = torch.load({place!r}, weights_only=True)",
            "model = timm.create_model(saved['args']['model'], **saved['args']['model_args'])"
            "; model.load_state_dict(saved['model'])",
        ],
        "torch": [
            "import torch",
            f"model = torch.export.load({place!r}).module()",
            "probabilities = model(images)  # (B, 3, R, R), normalized",
        ],
    }
    photo = "np.asarray(Image.open('photo.jpg').convert('RGB'))[None]"
    asked = "images" if raw else photo
    onnx: list[str] = [
        "import numpy as np, onnxruntime" + ("" if raw else "; from PIL import Image"),
        f"session = onnxruntime.InferenceSession({place!r})",
        f"probabilities = session.run(None, {{'images': {asked}}})[0]",
    ]
    return lines.get(wanted.name, onnx)


def _is(names: Sequence[Any]) -> str:
    return "is" if len(names) == 1 else "are"
