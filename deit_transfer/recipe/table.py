"""The table of all shipped recipes: `python -m deit_transfer.recipe.table` writes it.

It stands in recipes/README.md and in docs/recipes.md; a test holds both to what the recipes say.
"""

from pathlib import Path

from deit_transfer.recipe.checks import scaled_peak_lr
from deit_transfer.recipe.loader import list_recipes, load_recipe, recipes_root
from deit_transfer.recipe.schema import Recipe

INTRODUCTION = """# Shipped recipes

Written by `python -m deit_transfer.recipe.table`; do not edit.
`deit-transfer recipes show NAME` prints a recipe with a sentence and the source of each value.

"""
LEGEND = """\
Learning rates are given at batch 512, then after scaling to the recipe's batch. "Measured" is
our own result; empty means that we have not run it. "Paper" is the paper's value, for the model
named with it. "Guesses" lists the settings whose source says that the value is our guess.

| recipe | model, pixels | epochs | batch | learning rate | measured | paper | guesses |
| --- | --- | ---: | ---: | --- | --- | --- | --- |
"""
BEGIN, END = "<!-- begin of the table of recipes -->\n", "<!-- end of the table of recipes -->\n"


def recipe_page() -> str:
    """Return the page of all shipped recipes as Markdown."""
    return INTRODUCTION + recipe_rows()


def recipe_rows() -> str:
    """Return the legend and the table of all shipped recipes as Markdown."""
    return LEGEND + "".join(_row(name, load_recipe(name)) for name in list_recipes())


def with_table(page: str) -> str:
    """Return a page with the table put between its two marks."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the page has no {BEGIN.strip()} ... {END.strip()}")
    return f"{before}{begin}\n{recipe_rows()}\n{end}{after}"


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
        _measured(recipe),
        recipe.evidence.paper,
        ", ".join(guesses),
    ]
    return f"| {' | '.join(cells)} |\n"


def _measured(recipe: Recipe) -> str:
    """Return our figure with its minutes and machine."""
    evidence = recipe.evidence
    minutes = "" if evidence.minutes is None else f"{evidence.minutes:g} minutes"
    return "; ".join(part for part in (evidence.measured, minutes, evidence.hardware) if part)


if __name__ == "__main__":
    readme = recipes_root() / "README.md"
    readme.write_text(recipe_page(), encoding="utf-8")
    docs = Path(recipes_root().parent, "docs", "recipes.md")
    docs.write_text(with_table(docs.read_text(encoding="utf-8")), encoding="utf-8")
