"""The model card of a run: Markdown for the hub, from what the run recorded.

Names of classes and files come from disk and may hold anything: they are escaped for Markdown, and
of paths only the last part is told.
"""

import math
import re
from pathlib import Path
from typing import Any

from deit_transfer.data.catalog import list_datasets
from deit_transfer.engine.inference import scores
from deit_transfer.errors import DeitTransferError
from deit_transfer.evaluation.metrics import SplitPredictions, per_class_facts
from deit_transfer.export.formats import MODEL_FILE_OF_RUN, finished_run
from deit_transfer.models.variants import VARIANTS
from deit_transfer.recipe.loader import load_recipe
from deit_transfer.recipe.schema import Recipe
from deit_transfer.report.number_format import compact
from deit_transfer.report.terminal_style import printable
from deit_transfer.runs.folder import (
    ENVIRONMENT_FILE,
    PREDICTIONS_FILE,
    RECIPE_FILE,
    RESULT_FILE,
    RunFolder,
)
from deit_transfer.runs.predictions import StoredPredictions, read_predictions

REPOSITORY = "OWNER/NAME"
MOST_CLASSES = 50
MOST_CONFUSED = 5
_MARKDOWN = re.compile(r"([\\`*_{}\[\]<>|#])")
_MODES = {
    "finetune": "fine-tuned",
    "scratch": "trained from random weights",
    "pretrain": "pretrained",
    "soup": "the average of several runs fine-tuned",
}


def model_card(run: Path, *, repository: str = REPOSITORY) -> str:
    """Return the card as Markdown.

    Args:
        run: A finished run's folder.
        repository: OWNER/NAME on the hub, for the lines that load it.

    Raises:
        DataError: The folder is no run.
        CheckpointError: The run has not finished.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).with_name("templates")),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["md"] = escape_markdown
    values = card_facts(run) | {"repository": repository}
    text = environment.get_template("card.md.j2").render(values)
    return re.sub(r"\n{3,}", "\n\n", text).rstrip() + "\n"


def is_card(head: bytes) -> bool:
    """Return whether a file begins like a card of this program."""
    return head.startswith(b"---\nlibrary_name: timm\n") and b"- deit-transfer\n" in head


def card_facts(run: Path) -> dict[str, Any]:
    """Return what the card says of a run, as plain values."""
    folder = finished_run(run)
    result, model = folder.read_json(RESULT_FILE), folder.read_json(MODEL_FILE_OF_RUN)
    recipe = load_recipe(str(folder.path / RECIPE_FILE))
    config = folder.read_json("config.json").get("pretrained_cfg", {})
    crop = config.get("crop_pct") or 1.0
    return {
        "name": folder.path.resolve().name,
        "network": model["model"],
        "resolution": model["resolution"],
        "resized": math.floor(model["resolution"] / crop),
        "mean": model["mean"],
        "std": model["std"],
        "class_names": model["class_names"],
        "parameters": _parameters(folder),
        "mode": _MODES.get(result.get("mode", recipe.mode), recipe.mode),
        **_training_facts(folder, recipe, result),
        **_accuracy_facts(folder, model["class_names"], result),
    }


def escape_markdown(value: object) -> str:
    """Return text that Markdown shows as it stands, on one line."""
    return _MARKDOWN.sub(r"\\\1", printable(value))


def _training_facts(folder: RunFolder, recipe: Recipe, result: dict[str, Any]) -> dict[str, Any]:
    data, environment = folder.read_json("data.json"), folder.read_json(ENVIRONMENT_FILE)
    packages = environment.get("packages", {})
    versions = [f"{name} {packages[name]}" for name in ("torch", "timm") if packages.get(name)]
    start, license_of_start, base = _start(recipe)
    return {
        "dataset": _last_part(data.get("dataset", recipe.data.dataset)),
        "counts": data.get("counts", {}),
        "start": start,
        "start_license": license_of_start,
        "base_model": base,
        "teacher": _last_part(recipe.distill.teacher) if recipe.distill.teacher else None,
        "epochs": f"{result['epochs']:g}" if result.get("epochs") is not None else "some",
        "batch_size": recipe.schedule.batch_size,
        "optimizer": recipe.optim.name,
        "peak_lr": recipe.optim.peak_lr,
        "weight_decay": recipe.optim.weight_decay,
        "smoothing": recipe.augment.smoothing,
        "seed": recipe.run.seed,
        "weights": "averaged weights (EMA)" if result.get("weights") == "ema" else "raw weights",
        "selected_on": result.get("selected_on", "the last"),
        "versions": ", ".join(versions) or "unknown versions",
        "hardware": environment.get("gpu") or environment.get("processor") or "unknown hardware",
        "data_license": _data_license(recipe),
    }


def _start(recipe: Recipe) -> tuple[str, str, str | None]:
    """Return the start in words, its license, and its name on the hub where it has one."""
    start = recipe.model.pretrained
    if start == "none":
        return "random weights", "none is needed", None
    if start == "imagenet":
        variant = VARIANTS.get(recipe.model.name)
        if variant is None:
            return "timm's published ImageNet weights", "see their page", None
        base = f"timm/{variant.timm_name}"
        return f"the published ImageNet weights {base}", "Apache-2.0 (facebookresearch/deit)", base
    return f"the weights {_last_part(start)}", "not known to this program", None


def _data_license(recipe: Recipe) -> str:
    for info in list_datasets():
        if info.name == recipe.data.dataset:
            return info.license
    return "the owner's of these images"


def _parameters(folder: RunFolder) -> str:
    from safetensors import safe_open

    from deit_transfer.models.pretrained import weights_path

    with safe_open(weights_path(folder.path), framework="numpy") as weights:
        sizes = [math.prod(weights.get_slice(key).get_shape()) for key in weights.keys()]  # noqa: SIM118
    return compact(sum(sizes))


def _accuracy_facts(
    folder: RunFolder, class_names: list[str], result: dict[str, Any]
) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "top1": result.get("top1"),
        "ci95": result.get("top1_ci95"),
        "mean_per_class": result.get("mean_per_class"),
        "num_test_images": result.get("num_test_images", 0),
        "selects_on_test": bool(result.get("selects_on_test")),
        "averaged_logits_top1": None,
        "per_class": [],
        "unlisted_classes": 0,
        "confused": [],
    }
    stored = _stored(folder)
    if stored is None:
        return facts
    found = per_class_facts(SplitPredictions(stored=stored, right=None), class_names)
    rows = found["per_class"]
    if len(rows) > MOST_CLASSES:
        facts["unlisted_classes"] = len(rows) - MOST_CLASSES
        rows = sorted(rows, key=lambda row: row["recall"])[:MOST_CLASSES]
    facts["per_class"], facts["confused"] = rows, found["confused"][:MOST_CONFUSED]
    if stored.distill_logits is not None:
        facts["averaged_logits_top1"] = _averaged_top1(stored)
    return facts


def _stored(folder: RunFolder) -> StoredPredictions | None:
    try:
        return read_predictions(folder.path / PREDICTIONS_FILE)
    except DeitTransferError:
        return None


def _averaged_top1(stored: StoredPredictions) -> float:
    import torch

    assert stored.distill_logits is not None
    logits = torch.from_numpy(stored.class_logits + stored.distill_logits) / 2
    return scores(logits.softmax(dim=-1), torch.from_numpy(stored.labels)).top1


def _last_part(text: str) -> str:
    """Return the last part of a path; anything else as it is."""
    return Path(text).name if "/" in text and ":" not in text else text
