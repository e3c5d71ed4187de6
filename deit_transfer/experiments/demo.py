"""The demo: a comparison on handwritten digits, without a download, in minutes on a CPU."""

from pathlib import Path
from typing import Any

from deit_transfer.experiments.compare import ComparisonSettings, compare
from deit_transfer.experiments.preflight import GO_ON
from deit_transfer.recipe.loader import load_recipe
from deit_transfer.runs.folder import RunFolder
from deit_transfer.training.callbacks import Callbacks, NoCallbacks
from deit_transfer.training.train import train

DATASET = "digits"
PRETRAINING = "demo/pretrain"
ARM_RECIPES = {"scratch": "demo/scratch", "finetune": "demo/finetune"}
HONEST_LABELS = (
    "a demo: a tiny DeiT (deit_micro, 32 pixels) on 8x8 handwritten digits from scikit-learn",
    "pretrained on the digits 0-4, not on ImageNet; the arms learn the digits 5-9",
)


def demo(*, out: Path, seeds: int, callbacks: Callbacks | None = None) -> dict[str, Any]:
    """Pretrain on digits 0 to 4, then compare both arms on 5 to 9 with few labels a class.

    Returns:
        The comparison object.
    """
    callbacks = callbacks or NoCallbacks()
    callbacks.note("First act: pretrain a tiny DeiT on the digits 0 to 4.")
    recipe = load_recipe(PRETRAINING)
    pretrained = train(recipe, out=out, resume=True, callbacks=callbacks, go_on=GO_ON)
    callbacks.note("\nSecond act: learn 5 to 9, from scratch and from those weights.")
    settings = ComparisonSettings(
        start=str(RunFolder(Path(pretrained["run"])).path.resolve()),
        seeds=seeds,
        recipe_names=ARM_RECIPES,
        cautions=HONEST_LABELS,
        start_name="the digits 0-4",
        soup=False,
    )
    return compare(DATASET, settings, out=out, callbacks=callbacks)
