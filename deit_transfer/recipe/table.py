"""Own the table of all shipped recipes as a page: `python -m deit_transfer.recipe.table`.

It is written to recipes/README.md; a test holds that page to what the recipes say.
"""

from deit_transfer.recipe.checks import scaled_peak_lr
from deit_transfer.recipe.loader import list_recipes, load_recipe
from deit_transfer.recipe.schema import Recipe

INTRODUCTION = """# Shipped recipes

Written by `python -m deit_transfer.recipe.table > recipes/README.md`; do not edit.
`deit-transfer recipes show NAME` prints a recipe with a sentence and the source of each value.

Learning rates are given at batch 512, then after scaling to the recipe's batch. "Measured" is our
own figure, with its seeds and machine in the recipe; empty means that we have not run it. "Paper"
is the paper's figure, for the model named with it. "Guesses" lists the settings whose source says
that the value is our guess.

| recipe | model, pixels | epochs | batch | learning rate | measured | paper | guesses |
| --- | --- | ---: | ---: | --- | --- | --- | --- |
"""


def recipe_page() -> str:
    """Return the page of all shipped recipes as Markdown."""
    return INTRODUCTION + "".join(_row(name, load_recipe(name)) for name in list_recipes())


def _row(name: str, recipe: Recipe) -> str:
    pixels = recipe.model.resolution or "own"
    rate = f"{recipe.optim.peak_lr:g} -> {scaled_peak_lr(recipe):.3g}"
    guesses = [place for place, source in recipe.sources.items() if "guess" in source]
    cells = [
        f"`{name}`",
        f"{recipe.model.name}, {pixels}",
        str(recipe.schedule.epochs),
        str(recipe.schedule.batch_size),
        rate,
        recipe.evidence.measured,
        recipe.evidence.paper,
        ", ".join(guesses),
    ]
    return f"| {' | '.join(cells)} |\n"


if __name__ == "__main__":
    print(recipe_page(), end="")
