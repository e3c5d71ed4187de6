"""The paper's tables of networks with ours beside them: Tables 5 and 6, and Figure 1."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from deit_transfer.paper.cells import Filled, TableCell, TableRow, accuracy_cell
from deit_transfer.paper.commands import LONG, PRETRAIN, Writer
from deit_transfer.paper.evidence import FoundRun, FoundRuns
from deit_transfer.paper.spec_tables import params_cell, speed_cell
from deit_transfer.paper.values import (
    NETWORKS,
    SCRATCH,
    TABLES,
    TRANSFER_DATASETS,
)

LONG_EPOCHS = 1000
FROM_SCRATCH = "scratch: "


def fill_table5(found: FoundRuns) -> Filled:
    """Put parameters, speed and accuracies measured here beside Table 5."""
    rows = []
    for name, figures in TABLES["table5"].rows.items():
        row = name.removesuffix(LONG)
        timed = speed_cell(found, row) if row == name or figures[2] is not None else None
        cells = (params_cell(found, row), TableCell(value=figures[1]), timed, *_scores(name, found))
        rows.append(TableRow(name=name, paper=figures, here=cells))
    notes = ["where an accuracy here is -, the weights behind the paper's value are not public"]
    return rows, [], notes


def fill_table6(found: FoundRuns) -> Filled:
    """Put transfers made here beside Table 6, then networks that the paper does not transfer."""
    write = Writer(found.out)
    tuned = [run for run in found.runs if run.recipe.mode == "finetune"]
    alone = [run for run in found.runs if run.recipe.mode == "scratch"]
    rows = []
    for name, figures in TABLES["table6"].rows.items():
        here: list[TableCell | None] | None = None
        if name.startswith("DeiT"):
            here = [_scores(name, found)[0]]
            for dataset in TRANSFER_DATASETS[1:]:
                runs = [run for run in tuned if run.dataset == dataset and run.is_row(name)]
                here.append(accuracy_cell(runs, commands=write.finetune(name, dataset)))
            here.append(speed_cell(found, name))
        rows.append(TableRow(name=name, paper=figures, here=here))
    rows += _further_rows(tuned, write, known=TABLES["table6"].rows)
    rows += _scratch_rows(alone, write)
    notes = [
        "rows 'scratch' are of section 5.4: trained on the dataset alone",
        "EfficientNet and ViT are the paper's quotations; this program fills the rows of DeiT",
    ]
    return rows, [], notes


def fill_figure1(found: FoundRuns) -> Filled:
    """Put speeds and ImageNet accuracies measured here beside those behind Figure 1."""
    columns = TABLES["table5"].columns
    speed, top1 = columns.index("im/s"), columns.index("ImageNet")
    figures = TABLES["figure1"].rows
    rows = [
        TableRow(name=row.name, paper=figures[row.name], here=(row.here[speed], row.here[top1]))
        for row in fill_table5(found)[0]
        if row.name in figures and row.here is not None
    ]
    return rows, [], []


def _scores(
    name: str, found: FoundRuns
) -> tuple[TableCell | None, TableCell | None, TableCell | None]:
    """Return the cells of ImageNet, ReaL and V2 of a row of Table 5."""
    write, network = Writer(found.out), NETWORKS[name]
    runs = [
        run
        for run in found.on_imagenet
        if run.is_row(name.removesuffix(LONG))
        and (run.recipe.schedule.epochs >= LONG_EPOCHS) == name.endswith(LONG)
    ]
    sets = "imagenet imagenet-real imagenet-v2"
    if network.weights is not None:
        subject = network.weights
        commands = write.evaluate(subject, name=subject, datasets=sets)
    elif name in PRETRAIN:
        run = f"table5-{PRETRAIN[name]}"
        subject = write.folder(run)
        commands = (
            *write.once(f"pretrain imagenet --recipe pretrain/{PRETRAIN[name]}", name=run),
            *write.evaluate(subject, name=run, datasets=sets),
        )
    elif name == "DeiT-B distilled at 384":
        commands = write.distilled_at_384(sets)
    else:
        return None, None, None
    first = accuracy_cell(runs, commands=commands)
    trained = {run.folder.path.resolve() for run in runs}
    cells = [
        _score_cell(found, dataset, subject=network.weights, trained=trained, commands=commands)
        for dataset in sets.split()
    ]
    return (first if first.value is not None else cells[0]), cells[1], cells[2]


def _score_cell(
    found: FoundRuns,
    dataset: str,
    *,
    subject: str | None,
    trained: set[Path],
    commands: tuple[str, ...],
) -> TableCell:
    """Return what an evaluation gave the published weights, or a run trained here."""
    for score in reversed(found.scores):
        published = score["run"] == subject
        here = Path(score["run"]).resolve() in trained
        if score["dataset"] == dataset and (published or here):
            who = "published weights" if published else "trained here"
            label = f"{who}, scored here on {score.get('num_test_images', 0):,} images"
            return TableCell(value=score["top1"], label=label, runs=(score["file"],))
    return TableCell(commands=commands)


def _further_rows(
    runs: Sequence[FoundRun], write: Writer, *, known: Iterable[str], before: str = ""
) -> list[TableRow]:
    """Return a row for each network that the paper's table lacks."""
    named: dict[str, list[FoundRun]] = {}
    for run in runs:
        name = f"{before}{run.row}"
        if name not in known and run.dataset in TRANSFER_DATASETS[1:]:
            named.setdefault(name, []).append(run)
    rows = []
    for name, group in named.items():
        missing = [d for d in TRANSFER_DATASETS[1:] if all(run.dataset != d for run in group)]
        cells = [
            accuracy_cell([run for run in group if run.dataset == dataset])
            for dataset in TRANSFER_DATASETS[1:]
        ]
        commands = write.rest_of_row(group[0], missing) if missing else ()
        rows.append(TableRow(name=name, paper=None, here=[None, *cells, None], commands=commands))
    return rows


def _scratch_rows(runs: Sequence[FoundRun], write: Writer) -> list[TableRow]:
    rows = []
    figures = SCRATCH["cifar10"]
    place = TRANSFER_DATASETS.index("cifar10")
    for name, top1 in figures.items():
        paper: list[float | None] = [None] * (len(TRANSFER_DATASETS) + 1)
        here: list[TableCell | None] = [None] * len(paper)
        paper[place] = top1
        mine = [run for run in runs if run.dataset == "cifar10" and run.is_row(name)]
        here[place] = accuracy_cell(mine, commands=write.scratch(name, "cifar10"))
        rows.append(TableRow(name=f"{FROM_SCRATCH}{name}", paper=paper, here=here))
    known = [f"{FROM_SCRATCH}{name}" for name in figures]
    return rows + _further_rows(runs, write, known=known, before=FROM_SCRATCH)
