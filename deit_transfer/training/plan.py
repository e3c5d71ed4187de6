"""Preview a run: settings, steps and estimated time, without training."""

import time
from pathlib import Path

from deit_transfer.data.dataset import Progress
from deit_transfer.engine.distributed import World
from deit_transfer.engine.signals import StopSignals
from deit_transfer.models.pretrained import read_pretrained
from deit_transfer.recipe.schema import Recipe
from deit_transfer.report.header import HeaderFacts
from deit_transfer.training.data_splits import check_readable, load_splits
from deit_transfer.training.header import header_facts
from deit_transfer.training.setup import set_up_run


def plan(recipe: Recipe, *, out: Path, progress: Progress | None = None) -> HeaderFacts:
    """Return what a run would do; reads data and weights, times the network, writes nothing.

    Args:
        recipe: Checked and whole.
        out: Folder that would hold the run.
        progress: Called while the dataset is fetched, unpacked or listed.
    """
    began = time.monotonic()
    with StopSignals(hint="") as stop:

        def show_loading(done: int, total: int) -> None:
            stop.check()
            if progress:
                progress(done, total)

        splits = load_splits(recipe.data, progress=show_loading)
        check_readable(splits, allow_bad=recipe.data.allow_bad, progress=lambda *_: stop.check())
        start = read_pretrained(recipe.model.pretrained, model_name=recipe.model.name)
        stop.check()
        setup = set_up_run(recipe, splits, start, world=World(), began=began)
        stop.check()
        return header_facts(setup, folder=f"a new one below {out}")
