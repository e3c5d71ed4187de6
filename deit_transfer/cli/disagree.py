"""`disagree`: how often classifiers decide differently (the paper's Table 4)."""

from pathlib import Path
from typing import Annotated

import typer

from deit_transfer.cli.console import Output
from deit_transfer.cli.early_checks import check_datasets, check_subjects
from deit_transfer.cli.options import DataDirOption, DeviceOption, JsonFlag, QuietFlag, expand_home
from deit_transfer.cli.progress import progress_shown


def disagree(
    subjects: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN_OR_MODEL...",
            callback=expand_home,
            help="Runs' folders; with --on also networks by name, or MODEL=WEIGHTS.",
        ),
    ],
    on: Annotated[
        str | None,
        typer.Option(
            "--on",
            metavar="DATASET",
            callback=expand_home,
            help="Score all on these test images. Default: stored predictions.",
        ),
    ] = None,
    out: Annotated[
        Path, typer.Option("--out", callback=expand_home, help="PNG file to write, in this folder.")
    ] = Path("disagree.png"),
    data_dir: DataDirOption = None,
    device: DeviceOption = None,
    as_json: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Show how often runs and networks decide differently, in pairs and from the truth.

    A distilled network counts as three: its class head, its distillation head, and both.
    """
    check_subjects(*subjects)
    check_datasets([on] if on is not None else ())
    from deit_transfer.evaluation.disagree import disagree as run_disagree
    from deit_transfer.paper.values import paper_matrix
    from deit_transfer.report.disagreement import disagreement_table

    output = Output(as_json=as_json, quiet=quiet)
    with progress_shown(output, "asking") as progress:
        facts = run_disagree(
            subjects,
            path=out,
            dataset_name=on,
            data_dir=data_dir,
            device_name=device,
            progress=progress,
        )
    output.finish(facts, disagreement_table(facts, paper=paper_matrix()), f"Figure: {out}")
