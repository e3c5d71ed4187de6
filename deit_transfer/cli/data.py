"""`data list|prepare|check|preview`: the datasets there are, and what is in one."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from deit_transfer.cli.console import Output
from deit_transfer.cli.early_checks import check_datasets
from deit_transfer.cli.options import (
    DataDirOption,
    DatasetArgument,
    JsonFlag,
    RankOption,
    SetOption,
    complete_recipe,
    expand_home,
)
from deit_transfer.cli.progress import progress_shown
from deit_transfer.errors import DataError

app = typer.Typer(
    help="List, download, check and preview datasets.", no_args_is_help=True, rich_markup_mode=None
)


@app.command("list")
def list_(data_dir: DataDirOption = None, as_json: JsonFlag = False) -> None:
    """List the datasets of the catalog and whether they are found here."""
    from deit_transfer.report.listings import dataset_table
    from deit_transfer.runs.listing import describe_datasets

    rows = describe_datasets(data_dir)
    Output(as_json=as_json).finish({"datasets": rows}, dataset_table(rows))


@app.command()
def prepare(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name in the catalog.")],
    data_dir: DataDirOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Download a dataset, or say how to get it, and check its counts."""
    from deit_transfer.data.prepare import prepare as run_prepare
    from deit_transfer.report.listings import check_table

    output = Output(as_json=as_json)
    with progress_shown(output, f"preparing {name}", unit="MB") as progress:
        facts = run_prepare(name, data_dir=data_dir, progress=progress)
    output.finish(facts, check_table(facts))


@app.command()
def preview(
    dataset: DatasetArgument,
    out: Annotated[
        Path, typer.Option("--out", callback=expand_home, help="PNG file to write.")
    ] = Path("preview.png"),
    images: Annotated[
        int, typer.Option("--images", min=2, max=100, help="Images shown, one a row.")
    ] = 8,
    recipe: Annotated[
        str | None,
        typer.Option(
            "--recipe",
            callback=expand_home,
            autocompletion=complete_recipe,
            help="Whose pipeline: a recipe's name or file.",
        ),
    ] = None,
    data_dir: DataDirOption = None,
    assignments: SetOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Draw images beside their augmented versions."""
    check_datasets([dataset])
    from deit_transfer.training.preview import preview as run_preview

    overrides = _overrides(assignments, data_dir)
    output = Output(as_json=as_json)
    with progress_shown(output, f"preparing {dataset}", unit="MB") as progress:
        facts = run_preview(
            dataset,
            path=out,
            num_images=images,
            recipe_name=recipe,
            overrides=overrides,
            progress=progress,
        )
    output.finish(facts, f"{len(facts['images'])} images of {facts['dataset']}: {out}")


@app.command()
def check(
    dataset: DatasetArgument,
    data_dir: DataDirOption = None,
    rank: RankOption = None,
    assignments: SetOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Read every image and list all faults (exit code 3 if any)."""
    check_datasets([dataset])
    from deit_transfer.data.check import check_dataset
    from deit_transfer.report.listings import check_table
    from deit_transfer.runs.listing import load_for_check

    output = Output(as_json=as_json)
    overrides = _overrides(assignments, data_dir)
    if rank is not None:
        overrides["data.rank"] = rank
    with progress_shown(output, f"preparing {dataset}", unit="MB") as progress:
        found = load_for_check(dataset, overrides=overrides, progress=progress)
    with progress_shown(output, f"reading {dataset}") as progress:
        report = check_dataset(found, progress=progress)
    facts = asdict(report)
    output.finish(facts, check_table(facts))
    if report.problems:
        count = "one problem" if len(report.problems) == 1 else f"{len(report.problems)} problems"
        raise DataError(f"{dataset} has {count}", hint="Fix or remove what is listed above")


def _overrides(assignments: list[str] | None, data_dir: Path | None) -> dict[str, Any]:
    """Return the recipe settings that the flags change, by dotted location."""
    from deit_transfer.recipe.loader import parse_assignment

    place = {} if data_dir is None else {"data.data_dir": str(data_dir)}
    return dict(parse_assignment(text) for text in assignments or []) | place
