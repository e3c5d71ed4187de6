"""The entry point: the list of commands, and how an error becomes an exit code."""

import os
import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from deit_transfer import __version__
from deit_transfer.cli import (
    compare,
    data,
    demo,
    disagree,
    epochs,
    evaluate,
    paper,
    plan,
    predict,
    probe,
    recipes,
    report,
    runs,
    sweep,
    throughput,
    tokens,
    train,
)
from deit_transfer.cli.console import show_error
from deit_transfer.errors import DeitTransferError, Interrupted

EXIT_CODES = """
Exit codes: 0 done, 1 unexpected error, 2 usage or recipe, 3 data, 4 weights or
checkpoint, 5 diverged, 6 memory or disk, 7 run folder in use, 75 stopped by a
signal and saved (run again with --resume), 130 Ctrl-C.
"""

COMMANDS = {
    "Train": {
        "demo": "Compare on handwritten digits, offline, in minutes on a CPU.",
        "finetune": "Fine-tune a pretrained network on a dataset or folder.",
        "scratch": "Train from random weights.",
        "pretrain": "Pretrain a DeiT as in the paper, with or without a teacher.",
        "teacher": "Fit a teacher to a dataset.",
        "plan": "Preview a run: settings, steps and estimated time.",
    },
    "Compare": {
        "compare": "Compare scratch and fine-tuned side by side, over seeds.",
        "sweep": "Search settings or recipes on validation images.",
        "epochs": "Show accuracy against epochs, with and without a teacher.",
    },
    "Evaluate": {
        "evaluate": "Score a run, or a network by name, on any dataset.",
        "predict": "Classify images.",
        "report": "Write a self-contained HTML report.",
        "probe": "Score frozen features, before any training.",
        "disagree": "Show how often classifiers decide differently.",
        "tokens": "Show what the class and distillation tokens have learned.",
        "throughput": "Measure images per second of networks.",
        "paper": "Show the paper's tables with your runs beside them.",
    },
    "Data": {
        "data": "List, download, check and preview datasets.",
    },
    "Tools": {
        "recipes": "List, show, compare and check recipes.",
        "runs": "List, show and compare runs.",
    },
}


class GroupedCommands(TyperGroup):
    """Lists the commands of `--help` in groups, each with one whole sentence."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write one section per group."""
        for title, commands in COMMANDS.items():
            with formatter.section(title):
                formatter.write_dl(list(commands.items()))


app = typer.Typer(
    name="deit-transfer",
    cls=GroupedCommands,
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    epilog=EXIT_CODES,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("demo")(demo.demo)
app.command("finetune")(train.finetune)
app.command("scratch")(train.scratch)
app.command("pretrain")(train.pretrain)
app.add_typer(train.teacher_app, name="teacher")
app.command("compare")(compare.compare)
app.command("sweep")(sweep.sweep)
app.command("epochs")(epochs.epochs)
app.command("evaluate")(evaluate.evaluate)
app.command("report")(report.report)
app.command("predict")(predict.predict)
app.command("probe")(probe.probe)
app.command("disagree")(disagree.disagree)
app.command("tokens")(tokens.tokens)
app.command("throughput")(throughput.throughput)
app.command("paper")(paper.paper)
app.add_typer(plan.app, name="plan")
app.add_typer(recipes.app, name="recipes")
app.add_typer(data.app, name="data")
app.add_typer(runs.app, name="runs")


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"deit-transfer {__version__}")
        raise typer.Exit


@app.callback()
def deit_transfer(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    """What does ImageNet pretraining buy you, on your images, in your time?"""


def main() -> None:
    """Run the command line; known errors end in one sentence, a hint and their exit code."""
    try:
        app()
    except DeitTransferError as error:
        show_error(error)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(Interrupted.exit_code)
    except BrokenPipeError:
        # the reader of our output went away (as in `| head`): not an error, but no flush at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except Exception as error:
        if os.environ.get("DEIT_TRANSFER_TRACEBACK"):
            raise
        show_error(
            DeitTransferError(
                f"unexpected {type(error).__name__}: {error}",
                hint="This is a fault of the program. DEIT_TRANSFER_TRACEBACK=1 before the "
                "command shows where it happened",
            )
        )
        sys.exit(DeitTransferError.exit_code)
