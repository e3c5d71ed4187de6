"""`recipes list|show|diff|check`: the recipes, as values with their sources."""

from typing import Annotated

import typer

from deit_transfer.cli.console import Output, plain_text
from deit_transfer.cli.options import JsonFlag, complete_recipe, expand_home
from deit_transfer.errors import RecipeError

app = typer.Typer(
    help="List, show, compare and check recipes.", no_args_is_help=True, rich_markup_mode=None
)

RecipeArgument = Annotated[
    str,
    typer.Argument(
        metavar="RECIPE",
        callback=expand_home,
        autocompletion=complete_recipe,
        help="A shipped recipe's name, or a TOML file.",
    ),
]


@app.command("list")
def list_(
    word: Annotated[
        str, typer.Argument(metavar="[WORD]", help="Only those whose name or title has it.")
    ] = "",
    as_json: JsonFlag = False,
) -> None:
    """List the shipped recipes."""
    from deit_transfer.recipe.loader import list_recipes, load_recipe
    from deit_transfer.report.listings import recipe_table

    rows = [
        {
            "name": name,
            "title": recipe.title,
            "mode": recipe.mode,
            "model": recipe.model.name,
            "epochs": recipe.schedule.epochs,
            "measured": recipe.evidence.measured,
            "paper": recipe.evidence.paper,
        }
        for name in list_recipes()
        for recipe in [load_recipe(name)]
        if word.lower() in f"{name} {recipe.title}".lower()
    ]
    Output(as_json=as_json).finish({"recipes": rows}, recipe_table(rows))


@app.command()
def show(recipe: RecipeArgument, as_json: JsonFlag = False) -> None:
    """Print a recipe: every value, its meaning and its source."""
    from deit_transfer.recipe.loader import load_recipe
    from deit_transfer.recipe.show import annotated_toml

    chosen = load_recipe(recipe)
    output = Output(as_json=as_json)
    if as_json:
        output.finish(chosen.model_dump(mode="json"))
    else:
        print(plain_text(annotated_toml(chosen)))


@app.command()
def diff(first: RecipeArgument, second: RecipeArgument, as_json: JsonFlag = False) -> None:
    """Print the settings in which two recipes differ."""
    from deit_transfer.recipe.loader import differing_values, load_recipe
    from deit_transfer.report.listings import difference_table

    differences = differing_values(load_recipe(first), load_recipe(second))
    rows = [{"setting": key, "first": a, "second": b} for key, (a, b) in differences.items()]
    Output(as_json=as_json).finish(
        {"first": first, "second": second, "differences": rows},
        difference_table(rows, first=first, second=second),
    )


@app.command()
def check(
    recipes: Annotated[
        list[str] | None,
        typer.Argument(
            callback=expand_home,
            autocompletion=complete_recipe,
            help="Recipes to check; none: all shipped ones.",
        ),
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Check recipes and list every fault of each."""
    from deit_transfer.recipe.loader import list_recipes, load_recipe

    output = Output(as_json=as_json)
    faults: dict[str, list[str]] = {}
    for name in recipes or list_recipes():
        try:
            load_recipe(name)
            faults[name] = []
        except RecipeError as error:
            faults[name] = list(error.faults)
    faulty = {name: listed for name, listed in faults.items() if listed}
    output.finish({"recipes": faults}, f"{len(faults)} checked, {len(faulty)} with faults")
    if faulty:
        listed = [f"{name}: {fault}" for name, each in faulty.items() for fault in each]
        raise RecipeError(f"{len(faulty)} of {len(faults)} recipes have faults:", faults=listed)
