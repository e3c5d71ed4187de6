"""The entry point: the list of commands, and how an error becomes an exit code."""

import os
import sys
import tempfile
import traceback
from typing import Annotated, Any, NoReturn

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
    export,
    paper,
    plan,
    predict,
    probe,
    push,
    recipes,
    report,
    runs,
    sweep,
    throughput,
    tokens,
    train,
)
from deit_transfer.cli.console import show_error
from deit_transfer.cli.launch import end_with_launcher, leave_failure
from deit_transfer.errors import DeitTransferError, Interrupted, UsageError
from deit_transfer.runs.environment import command_line, set_command_line

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
    "Use elsewhere": {
        "export": "Write a run for timm, transformers, ONNX or torch, checked against it.",
        "card": "Print a run's model card.",
        "push": "Upload a run with its card to the Hugging Face hub.",
    },
    "Data": {
        "data": "List, download, check and preview datasets.",
    },
    "Tools": {
        "recipes": "List, show, compare and check recipes.",
        "runs": "List, show, compare and clean runs.",
    },
}


COMPUTING = ("Train", "Compare", "Evaluate")
BUSY_LOOK_S = 0.1
BUSY_PERCENT = 30.0  # of all cores, by other programs

# what people type who know other programs
OTHER_NAMES = {
    "train": "finetune",
    "fit": "finetune",
    "tune": "finetune",
    "eval": "evaluate",
    "test": "evaluate",
    "validate": "evaluate",
    "infer": "predict",
    "classify": "predict",
    "benchmark": "throughput",
    "convert": "export",
}


class GroupedCommands(TyperGroup):
    """Lists the commands of `--help` in groups, each with one whole sentence."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Return the command that was typed, or raise with the one that does what was meant."""
        if args and args[0] in OTHER_NAMES:
            raise UsageError(
                f"there is no command '{args[0]}'. Did you mean {OTHER_NAMES[args[0]]}?",
                hint="deit-transfer --help lists the commands",
            )
        return super().resolve_command(ctx, args)

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
app.command("export")(export.export)
app.command("card")(push.card)
app.command("push")(push.push)
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
    set_command_line(sys.argv[1:])
    if any(command in COMMANDS[group] for group in COMPUTING for command in sys.argv[1:2]):
        _share_busy_cores()
    end_with_launcher()
    try:
        app()
    except DeitTransferError as error:
        _end(error)
    except KeyboardInterrupt:
        sys.exit(Interrupted.exit_code)
    except BrokenPipeError:
        # the reader of our output went away (as in `| head`): not an error, but no flush at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except Exception as error:
        if os.environ.get("DEIT_TRANSFER_TRACEBACK"):
            raise
        _end(_unforeseen(error))


def _share_busy_cores() -> None:
    """Let waiting threads sleep where other work is on the cores, before torch loads its OpenMP.

    Threads that wait for each other in a busy loop take the cores from those that work: two beside
    other work were 2 to 9 times slower so. On an idle machine the loop is faster by 1.1x to 1.6x
    (docs/performance.md), and stays.
    """
    if {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"} & os.environ.keys():
        return
    import psutil

    if psutil.cpu_percent(interval=BUSY_LOOK_S) > BUSY_PERCENT:
        os.environ["GOMP_SPINCOUNT"] = "0"


def _end(error: DeitTransferError) -> NoReturn:
    """Show an error, or leave it to the launcher of several processes, and exit with its code."""
    if not leave_failure(error):
        show_error(error)
    sys.exit(error.exit_code)


def _unforeseen(error: Exception) -> DeitTransferError:
    """Return what is shown of an error that nothing caught; its traceback goes to a file."""
    message = f"unexpected {type(error).__name__}: {error}".rstrip(".")
    try:
        with tempfile.NamedTemporaryFile(
            "w", prefix="deit-transfer-", suffix=".txt", encoding="utf-8", delete=False
        ) as file:
            file.write(f"{command_line()}\n{__version__}\n\n{traceback.format_exc()}")
    except OSError:
        return DeitTransferError(
            message,
            hint="This is a fault of the program: open an issue, with what "
            "DEIT_TRANSFER_TRACEBACK=1 before the same command prints",
        )
    return DeitTransferError(
        message,
        hint="This is a fault of the program: open an issue with the file that holds the "
        f"traceback, {file.name}",
    )
