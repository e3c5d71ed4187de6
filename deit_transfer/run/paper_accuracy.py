"""Own the paper's tables of accuracies with ours beside them: 2, 3, 5 to 7, Figures 1 and 3."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from deit_transfer.errors import DeitTransferError
from deit_transfer.recipe.loader import differing_values, load_recipe
from deit_transfer.recipe.schema import Recipe
from deit_transfer.report.paper_figures import (
    HERE,
    NETWORKS,
    SCRATCH,
    TABLES,
    TRANSFER_DATASETS,
    paper_model,
)
from deit_transfer.run.paper_cells import Cell, Filled, Row, accuracy_cell
from deit_transfer.run.paper_commands import LONG, PRETRAIN, Writer
from deit_transfer.run.paper_evidence import Evidence, FoundRun, dataset_title
from deit_transfer.run.paper_facts import params_cell, speed_cell
from deit_transfer.run.workdir import RECIPE_FILE

LONG_EPOCHS = 1000
FROM_SCRATCH = "scratch: "
SIZES = {"Ti 224": "tiny", "S 224": "small", "B 224": "base"}
# Table 3: what distils, as a recipe says it, and which head is scored
METHODS: dict[str, tuple[tuple[str, str], str | None]] = {
    "no distillation": (("none", "class"), None),
    "soft distillation": (("soft", "class"), None),
    "hard distillation, class token only": (("hard", "class"), None),
    "distilled, class embedding": (("hard", "token"), "class"),
    "distilled, distillation embedding": (("hard", "token"), "distil"),
    "distilled, class + distillation": (("hard", "token"), "joint"),
}
# Table 7: the recipe of each row
ABLATIONS = {
    "default": "default",
    "SGD in pretraining": "sgd_pretrain",
    "SGD in fine-tuning": "sgd_finetune",
    "no RandAugment": "no_randaugment",
    "AutoAugment instead": "autoaugment",
    "no Mixup": "no_mixup",
    "no CutMix": "no_cutmix",
    "neither Mixup nor CutMix": "no_mixup_no_cutmix",
    "no random erasing": "no_erasing",
    "no stochastic depth": "no_stochastic_depth",
    "no repeated augmentation": "no_repeated_augmentation",
    "dropout": "dropout",
    "averaged weights (EMA)": "ema",
}


def fill_table2(found: Evidence) -> Filled:
    """Put students of each teacher beside Table 2."""
    table, write = TABLES["table2"], Writer(found.out)
    rows = []
    for name, figures in table.rows.items():
        teacher = NETWORKS[name].model
        runs = [run for run in _on_imagenet(found.runs) if _teacher_of(run) == teacher]
        named = f"table2-{teacher}"
        first = write.once(
            f"pretrain imagenet --recipe pretrain/deit_base_distilled --teacher {teacher}",
            name=named,
        )
        larger = write.train(
            "finetune imagenet --recipe paper/finetune/imagenet_384 --model "
            f"deit_base_distilled_patch16_384 --from {write.folder(named)} --teacher {teacher}"
        )
        students = [run for run in runs if _is_row(run, "DeiT-B distilled")]
        cells = (
            accuracy_cell(
                students, commands=first, value=lambda run: run.result.get("teacher_top1")
            ),
            accuracy_cell(students, commands=first),
            accuracy_cell(
                [run for run in runs if _is_row(run, "DeiT-B distilled at 384")],
                commands=(*first, larger),
            ),
        )
        rows.append(Row(name=name, paper=figures, here=cells))
    note = "here, a teacher's figure is on the images it was checked on before it taught"
    return rows, [], [note]


def fill_table3(found: Evidence) -> Filled:
    """Put the forms of distillation beside Table 3, and those of another network in a column."""
    table = TABLES["table3"]
    other = _most_distilled(found.runs)
    rows = []
    for name, figures in table.rows.items():
        cells: list[Cell | None] = [_method_cell(name, column, found) for column in table.columns]
        if other:
            cells.append(accuracy_cell(_by_method(other, name), value=_head_figure(name)))
        rows.append(Row(name=name, paper=figures, here=cells))
    if not other:
        return rows, [], []
    first = other[0]
    what = f"{first.recipe.model.name.replace('_distilled', '')} on {dataset_title(first.dataset)}"
    return rows, ["here"], [f"the column 'here' is {what}: other networks and images"]


def fill_table5(found: Evidence) -> Filled:
    """Put parameters, speed and accuracies measured here beside Table 5."""
    rows = []
    for name, figures in TABLES["table5"].rows.items():
        row = name.removesuffix(LONG)
        timed = speed_cell(found, row) if row == name or figures[2] is not None else None
        cells = (params_cell(found, row), Cell(value=figures[1]), timed, *_scores(name, found))
        rows.append(Row(name=name, paper=figures, here=cells))
    notes = ["where an accuracy here is -, the weights behind the paper's figure are not public"]
    return rows, [], notes


def fill_table6(found: Evidence) -> Filled:
    """Put transfers made here beside Table 6, then networks that the paper does not transfer."""
    write = Writer(found.out)
    tuned = [run for run in found.runs if run.recipe.mode == "finetune"]
    alone = [run for run in found.runs if run.recipe.mode == "scratch"]
    rows = []
    for name, figures in TABLES["table6"].rows.items():
        here: list[Cell | None] | None = None
        if name.startswith("DeiT"):
            here = [_scores(name, found)[0]]
            for dataset in TRANSFER_DATASETS[1:]:
                runs = [run for run in tuned if run.dataset == dataset and _is_row(run, name)]
                here.append(accuracy_cell(runs, commands=write.finetune(name, dataset)))
            here.append(speed_cell(found, name))
        rows.append(Row(name=name, paper=figures, here=here))
    rows += _further_rows(tuned, write, known=TABLES["table6"].rows)
    rows += _scratch_rows(alone, write)
    notes = [
        "rows 'scratch' are of section 5.4: trained on the dataset alone",
        "EfficientNet and ViT are the paper's quotations; this program fills the rows of DeiT",
    ]
    return rows, [], notes


def fill_table7(found: Evidence) -> Filled:
    """Put ablations made here beside Table 7; they are of one dataset and network, which is said.

    A run is a row's where it has that row's value of every setting that any row changes.
    """
    write = Writer(found.out)
    recipes = {row: load_recipe(f"ablation/{name}") for row, name in ABLATIONS.items()}
    default = recipes["default"]
    pretrained = {row: r for row, r in recipes.items() if r.mode == "pretrain"}
    settings = {key for r in pretrained.values() for key in differing_values(default, r)}
    by_row = {
        row: [run for run in found.runs if _same_settings(run, recipe, settings)]
        for row, recipe in pretrained.items()
    }
    group = _commonest(run for runs in by_row.values() for run in runs)
    rows = []
    for row, figures in TABLES["table7"].rows.items():
        source = row if row in pretrained else "default"
        runs = [run for run in by_row[source] if _group(run) == group]
        named = f"table7-{ABLATIONS[source]}"
        first = write.once(f"pretrain imagenet --recipe ablation/{ABLATIONS[source]}", name=named)
        tuning = "paper/finetune/imagenet_384" if source == row else f"ablation/{ABLATIONS[row]}"
        later = write.train(f"finetune imagenet --recipe {tuning} --from {write.folder(named)}")
        optimiser = recipes[row].optim.name if source != row else "adamw"
        larger = [run for run in found.runs if _grew(run, runs, optimiser)]
        cells = (
            accuracy_cell(runs, commands=first),
            accuracy_cell(larger, commands=(*first, later)),
        )
        rows.append(Row(name=row, paper=figures, here=cells))
    return rows, [], []


def fill_figure1(found: Evidence) -> Filled:
    """Put speeds and ImageNet accuracies measured here beside those behind Figure 1."""
    columns = TABLES["table5"].columns
    speed, top1 = columns.index("im/s"), columns.index("ImageNet")
    figures = TABLES["figure1"].rows
    rows = [
        Row(name=row.name, paper=figures[row.name], here=(row.here[speed], row.here[top1]))
        for row in fill_table5(found)[0]
        if row.name in figures and row.here is not None
    ]
    return rows, [], []


def fill_figure3(found: Evidence) -> Filled:
    """Put accuracies at several lengths of training beside those of Figure 3."""
    paper = TABLES["figure3"].rows
    write = Writer(found.out)
    mine = [run for run in found.runs if run.recipe.mode in ("pretrain", "scratch")]
    group = _commonest(mine, key=_length_group)
    chosen = [run for run in mine if _length_group(run) == group]
    epochs = sorted({run.recipe.schedule.epochs for run in chosen})
    stated = [int(str(name).split()[0]) for name in paper]
    rows = []
    for length in sorted({*epochs, *stated}):
        name = f"{length} epochs"
        here: list[Cell | None] = [Cell(value=length)]
        for distilled in (False, True):
            runs = [
                run
                for run in chosen
                if run.recipe.schedule.epochs == length and _is_distilled(run) == distilled
            ]
            recipe = "pretrain/deit_base" + ("_distilled" if distilled else "")
            commands = write.once(
                f"pretrain imagenet --recipe {recipe} --epochs {length}",
                name=f"figure3-{'distilled' if distilled else 'plain'}-{length}",
            )
            cell = accuracy_cell(runs, commands=commands if length in stated else ())
            here.append(cell)
        rows.append(Row(name=name, paper=paper.get(name), here=here))
    if group is None:
        return rows, [], []
    dataset, model, resolution = group
    return rows, [], [f"{HERE}{model} on {dataset_title(dataset)}, {resolution} px"]


def _on_imagenet(runs: Iterable[FoundRun]) -> list[FoundRun]:
    return [run for run in runs if run.dataset == "imagenet"]


def _is_row(run: FoundRun, row: str) -> bool:
    """Say whether the paper calls a run's network this, at this size."""
    word, exact = paper_model(run.recipe.model.name, run.resolution)
    return exact and word == row


def _is_distilled(run: FoundRun) -> bool:
    return run.recipe.distil.kind != "none"


def _teacher_of(run: FoundRun) -> str | None:
    """Return the network that taught a run, by its name."""
    teacher = run.recipe.distil.teacher
    if teacher is None or not Path(teacher).is_dir():
        return teacher
    try:
        return load_recipe(str(Path(teacher) / RECIPE_FILE)).model.name
    except DeitTransferError:
        return teacher


def _method(run: FoundRun) -> tuple[str, str]:
    distil = run.recipe.distil
    return (distil.kind, "class") if distil.kind == "none" else (distil.kind, distil.through)


def _by_method(runs: Sequence[FoundRun], method: str) -> list[FoundRun]:
    wanted, _ = METHODS[method]
    plain = [run for run in runs if _method(run) == wanted]
    # a distilled network that nobody taught is not the undistilled one
    return [r for r in plain if wanted[0] != "none" or "distilled" not in r.recipe.model.name]


def _head_figure(method: str) -> Callable[[FoundRun], float | None]:
    head = METHODS[method][1]
    if head is None:
        return lambda run: run.result.get("top1")
    return lambda run: (run.result.get("heads") or {}).get(head)


def _method_cell(method: str, column: str, found: Evidence) -> Cell:
    (kind, through), _ = METHODS[method]
    write = Writer(found.out)
    size = SIZES.get(column, "base")
    distilled = "_distilled" if through == "token" else ""
    words = f"pretrain imagenet --recipe pretrain/deit_{size}{distilled}"
    if kind != "none" and through == "class":
        tau = " --set distil.tau=3.0" if kind == "soft" else ""
        words += f" --teacher regnety_160 --distill {kind} --set distil.through=class{tau}"
    named = f"table3-{size}-{kind}-{through}"
    commands = write.once(words, name=named)
    larger = column not in SIZES
    if larger:
        model = f"deit_base{distilled}_patch16_384"
        taught = "" if kind == "none" else f" --teacher regnety_160 --distill {kind}"
        taught += " --set distil.through=class" if taught and through == "class" else ""
        later = f"finetune imagenet --recipe paper/finetune/imagenet_384 --model {model}{taught}"
        commands = (*commands, write.train(f"{later} --from {write.folder(named)}"))
    pixels = 384 if larger else 224
    runs = [
        run
        for run in _by_method(_on_imagenet(found.runs), method)
        if f"deit_{size}" in run.recipe.model.name and run.resolution == pixels
    ]
    return accuracy_cell(runs, commands=commands, value=_head_figure(method))


def _most_distilled(runs: Sequence[FoundRun]) -> list[FoundRun]:
    """Return the runs of one network and dataset, not ImageNet, where one of them was distilled."""
    groups: dict[tuple[Any, ...], list[FoundRun]] = {}
    for run in runs:
        if run.dataset != "imagenet" and run.recipe.mode != "teacher":
            model = run.recipe.model.name.replace("_distilled", "")
            key = (run.dataset, model, run.resolution, run.recipe.mode)
            groups.setdefault(key, []).append(run)
    taught = [group for group in groups.values() if any(map(_is_distilled, group))]
    return max(taught, key=lambda group: len({_method(run) for run in group}), default=[])


def _scores(name: str, found: Evidence) -> tuple[Cell | None, Cell | None, Cell | None]:
    """Return the cells of ImageNet, ReaL and V2 of a row of Table 5."""
    write, network = Writer(found.out), NETWORKS[name]
    runs = [
        run
        for run in _on_imagenet(found.runs)
        if _is_row(run, name.removesuffix(LONG))
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
    found: Evidence,
    dataset: str,
    *,
    subject: str | None,
    trained: set[Path],
    commands: tuple[str, ...],
) -> Cell:
    """Return what an evaluation gave the published weights, or a run trained here."""
    for score in reversed(found.scores):
        published = score["run"] == subject
        here = Path(score["run"]).resolve() in trained
        if score["dataset"] == dataset and (published or here):
            who = "published weights" if published else "trained here"
            label = f"{who}, scored here on {score.get('num_test_images', 0):,} images"
            return Cell(value=score["top1"], label=label, runs=(score["file"],))
    return Cell(commands=commands)


def _row_name(run: FoundRun) -> str:
    word, exact = paper_model(run.recipe.model.name, run.resolution)
    return word if exact else f"{word or run.recipe.model.name}, {run.resolution} px"


def _further_rows(
    runs: Sequence[FoundRun], write: Writer, *, known: Iterable[str], before: str = ""
) -> list[Row]:
    """Return a row for each network that the paper's table lacks."""
    named: dict[str, list[FoundRun]] = {}
    for run in runs:
        name = f"{before}{_row_name(run)}"
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
        rows.append(Row(name=name, paper=None, here=[None, *cells, None], commands=commands))
    return rows


def _scratch_rows(runs: Sequence[FoundRun], write: Writer) -> list[Row]:
    rows = []
    figures = SCRATCH["cifar10"]
    place = TRANSFER_DATASETS.index("cifar10")
    for name, top1 in figures.items():
        paper: list[float | None] = [None] * (len(TRANSFER_DATASETS) + 1)
        here: list[Cell | None] = [None] * len(paper)
        paper[place] = top1
        mine = [run for run in runs if run.dataset == "cifar10" and _is_row(run, name)]
        here[place] = accuracy_cell(mine, commands=write.scratch(name, "cifar10"))
        rows.append(Row(name=f"{FROM_SCRATCH}{name}", paper=paper, here=here))
    known = [f"{FROM_SCRATCH}{name}" for name in figures]
    return rows + _further_rows(runs, write, known=known, before=FROM_SCRATCH)


def _same_settings(run: FoundRun, recipe: Recipe, settings: set[str]) -> bool:
    if run.recipe.mode not in ("pretrain", "scratch") or _is_distilled(run):
        return False
    return not settings & differing_values(run.recipe, recipe).keys()


def _group(run: FoundRun) -> tuple[Any, ...]:
    return run.dataset, run.recipe.model.name, run.resolution


def _length_group(run: FoundRun) -> tuple[Any, ...]:
    return run.dataset, run.recipe.model.name.replace("_distilled", ""), run.resolution


def _commonest(
    runs: Iterable[FoundRun], *, key: Callable[[FoundRun], Any] = _group
) -> tuple[Any, ...] | None:
    """Return the dataset and network of most runs; ImageNet goes first, as in the paper."""
    counted = Counter(key(run) for run in runs)
    return max(counted, key=lambda one: (one[0] == "imagenet", counted[one]), default=None)


def _grew(run: FoundRun, smaller: Sequence[FoundRun], optimiser: str) -> bool:
    """Say whether a run went on from one of these at a higher resolution."""
    starts = {one.folder.path.resolve() for one in smaller}
    resumed = Path(run.recipe.model.start).resolve() in starts
    same = run.recipe.optim.name == optimiser
    return resumed and same and run.recipe.mode == "finetune"
