"""Own `evaluate`: the score of a finished run, on its own test images or on others."""

from pathlib import Path
from typing import Annotated, Any

import typer

from deit_transfer.cli.console import Output
from deit_transfer.cli.options import (
    FLAG_LOCATIONS,
    DataDirOption,
    DeviceOption,
    JsonFlag,
    PrecisionOption,
    QuietFlag,
    WorkersOption,
)


def evaluate(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a finished run.")],
    dataset: Annotated[
        str | None, typer.Argument(metavar="[DATASET]", help="None: the run's own test images.")
    ] = None,
    data_dir: DataDirOption = None,
    device: DeviceOption = None,
    precision: PrecisionOption = None,
    workers: WorkersOption = None,
    as_json: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Score a finished run on its own test images, or on another dataset."""
    from deit_transfer.report.result import result_table
    from deit_transfer.run.evaluate import evaluate as score

    given = {"device": device, "precision": precision, "workers": workers}
    overrides: dict[str, Any] = {
        FLAG_LOCATIONS[name]: value for name, value in given.items() if value is not None
    }
    if data_dir is not None:
        overrides["data.data_dir"] = str(data_dir)
    output = Output(as_json=as_json, quiet=quiet)
    result = score(run, dataset, overrides=overrides)
    for note in result["notes"]:
        output.tell(f"note: {note}")
    output.finish(result, result_table(result))
