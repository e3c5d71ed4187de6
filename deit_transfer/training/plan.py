"""Own the plan: all that a run would do, decided and checked, without a single step."""

from pathlib import Path

from deit_transfer.data.dataset import Progress
from deit_transfer.engine.distributed import World
from deit_transfer.engine.signals import StopSignals
from deit_transfer.models.pretrained import read_start
from deit_transfer.recipe.schema import Recipe
from deit_transfer.report.header import HeaderFacts
from deit_transfer.training.data_splits import load_inputs
from deit_transfer.training.header import header_facts
from deit_transfer.training.setup import draw_blueprint


def plan(recipe: Recipe, *, out: Path, progress: Progress | None = None) -> HeaderFacts:
    """Return what a run would do; reads data and weights, times the network, writes nothing.

    Args:
        recipe: Checked and whole.
        out: Folder that would hold the run.
        progress: Called while the dataset is fetched, unpacked or listed.
    """
    with StopSignals(hint="") as stop:

        def show_loading(done: int, total: int) -> None:
            stop.check()
            if progress:
                progress(done, total)

        inputs = load_inputs(recipe.data, progress=show_loading)
        start = read_start(recipe.model.start, model_name=recipe.model.name)
        stop.check()
        blueprint = draw_blueprint(recipe, inputs, start, world=World())
        stop.check()
        return header_facts(blueprint, folder=f"a new one below {out}")
