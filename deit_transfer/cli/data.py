"""Own `data list|check`: which datasets there are, and whether one is sound."""

from dataclasses import asdict

import typer

from deit_transfer.cli.console import Output
from deit_transfer.cli.options import DataDirOption, DatasetArgument, JsonFlag
from deit_transfer.errors import DataError

app = typer.Typer(help="List and check datasets.", no_args_is_help=True, rich_markup_mode=None)


@app.command("list")
def list_(data_dir: DataDirOption = None, as_json: JsonFlag = False) -> None:
    """List the datasets of the catalogue and whether they are found here."""
    from deit_transfer.report.tables import dataset_table
    from deit_transfer.run.inspect import describe_datasets

    rows = describe_datasets(data_dir)
    Output(as_json=as_json).finish({"datasets": rows}, dataset_table(rows))


@app.command()
def check(
    dataset: DatasetArgument, data_dir: DataDirOption = None, as_json: JsonFlag = False
) -> None:
    """Read every image of a dataset and list all that is wrong (exit code 3)."""
    from deit_transfer.data.catalog import load_dataset
    from deit_transfer.data.check import check_dataset
    from deit_transfer.report.tables import check_table

    report = check_dataset(load_dataset(dataset, data_dir=data_dir))
    facts = asdict(report)
    Output(as_json=as_json).finish(facts, check_table(facts))
    if report.problems:
        count = "one problem" if len(report.problems) == 1 else f"{len(report.problems)} problems"
        raise DataError(f"{dataset} has {count}", hint="Mend or remove what is listed above")
