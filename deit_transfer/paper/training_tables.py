"""The paper's tables of training methods with ours beside them: 2, 3, 7 and Figure 3."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from deit_transfer.errors import DeitTransferError
from deit_transfer.paper.cells import Filled, TableCell, TableRow, accuracy_cell
from deit_transfer.paper.commands import Writer
from deit_transfer.paper.evidence import FoundRun, FoundRuns, dataset_title
from deit_transfer.paper.values import (
    HERE,
    NETWORKS,
    TABLES,
)
from deit_transfer.recipe.loader import differing_values, load_recipe
from deit_transfer.recipe.schema import Recipe
from deit_transfer.runs.folder import RECIPE_FILE

SIZES = {"Ti 224": "tiny", "S 224": "small", "B 224": "base"}
# Table 3: what distills, as a recipe says it, and which head is scored
METHODS: dict[str, tuple[tuple[str, str], str | None]] = {
    "no distillation": (("none", "class"), None),
    "soft distillation": (("soft", "class"), None),
    "hard distillation, class token only": (("hard", "class"), None),
    "distilled, class embedding": (("hard", "token"), "class"),
    "distilled, distillation embedding": (("hard", "token"), "distill"),
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


def fill_table2(found: FoundRuns) -> Filled:
    """Put students of each teacher beside Table 2."""
    table, write = TABLES["table2"], Writer(found.out)
    rows = []
    for name, figures in table.rows.items():
        teacher = NETWORKS[name].model
        runs = [run for run in found.on_imagenet if _teacher_of(run) == teacher]
        named = f"table2-{teacher}"
        first = write.once(
            f"pretrain imagenet --recipe pretrain/deit_base_distilled --teacher {teacher}",
            name=named,
        )
        larger = write.train(
            "finetune imagenet --recipe paper/finetune/imagenet_384 --model "
            f"deit_base_distilled_patch16_384 --from {write.folder(named)} --teacher {teacher}"
        )
        students = [run for run in runs if run.is_row("DeiT-B distilled")]
        cells = (
            accuracy_cell(
                students, commands=first, value=lambda run: run.result.get("teacher_top1")
            ),
            accuracy_cell(students, commands=first),
            accuracy_cell(
                [run for run in runs if run.is_row("DeiT-B distilled at 384")],
                commands=(*first, larger),
            ),
        )
        rows.append(TableRow(name=name, paper=figures, here=cells))
    note = "here, a teacher's accuracy is on the images it was checked on before training"
    return rows, [], [note]


def fill_table3(found: FoundRuns) -> Filled:
    """Put the forms of distillation beside Table 3, and those of another network in a column."""
    table = TABLES["table3"]
    other = _most_distilled(found.runs)
    rows = []
    for name, figures in table.rows.items():
        cells: list[TableCell | None] = [
            _method_cell(name, column, found) for column in table.columns
        ]
        if other:
            cells.append(accuracy_cell(_by_method(other, name), value=_head_figure(name)))
        rows.append(TableRow(name=name, paper=figures, here=cells))
    if not other:
        return rows, [], []
    first = other[0]
    what = f"{first.recipe.model.name.replace('_distilled', '')} on {dataset_title(first.dataset)}"
    return rows, ["here"], [f"the column 'here' is {what}: other networks and images"]


def fill_table7(found: FoundRuns) -> Filled:
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
        optimizer = recipes[row].optim.name if source != row else "adamw"
        larger = [run for run in found.runs if _grew(run, runs, optimizer)]
        cells = (
            accuracy_cell(runs, commands=first),
            accuracy_cell(larger, commands=(*first, later)),
        )
        rows.append(TableRow(name=row, paper=figures, here=cells))
    return rows, [], []


def fill_figure3(found: FoundRuns) -> Filled:
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
        name = f"{length} epoch{'' if length == 1 else 's'}"
        here: list[TableCell | None] = [TableCell(value=length)]
        for distilled in (False, True):
            runs = [
                run
                for run in chosen
                if run.recipe.schedule.epochs == length and run.is_distilled == distilled
            ]
            recipe = "pretrain/deit_base" + ("_distilled" if distilled else "")
            commands = write.once(
                f"pretrain imagenet --recipe {recipe} --epochs {length}",
                name=f"figure3-{'distilled' if distilled else 'plain'}-{length}",
            )
            cell = accuracy_cell(runs, commands=commands if length in stated else ())
            here.append(cell)
        rows.append(TableRow(name=name, paper=paper.get(name), here=here))
    if group is None:
        return rows, [], []
    dataset, model, resolution = group
    return rows, [], [f"{HERE}{model} on {dataset_title(dataset)}, {resolution} px"]


def _teacher_of(run: FoundRun) -> str | None:
    """Return the network that taught a run, by its name."""
    teacher = run.recipe.distill.teacher
    if teacher is None or not Path(teacher).is_dir():
        return teacher
    try:
        return load_recipe(str(Path(teacher) / RECIPE_FILE)).model.name
    except DeitTransferError:
        return teacher


def _method(run: FoundRun) -> tuple[str, str]:
    distill = run.recipe.distill
    return (distill.kind, "class") if distill.kind == "none" else (distill.kind, distill.through)


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


def _method_cell(method: str, column: str, found: FoundRuns) -> TableCell:
    (kind, through), _ = METHODS[method]
    write = Writer(found.out)
    size = SIZES.get(column, "base")
    distilled = "_distilled" if through == "token" else ""
    words = f"pretrain imagenet --recipe pretrain/deit_{size}{distilled}"
    if kind != "none" and through == "class":
        tau = " --set distill.tau=3.0" if kind == "soft" else ""
        words += f" --teacher regnety_160 --distill {kind} --set distill.through=class{tau}"
    named = f"table3-{size}-{kind}-{through}"
    commands = write.once(words, name=named)
    larger = column not in SIZES
    if larger:
        model = f"deit_base{distilled}_patch16_384"
        taught = "" if kind == "none" else f" --teacher regnety_160 --distill {kind}"
        taught += " --set distill.through=class" if taught and through == "class" else ""
        later = f"finetune imagenet --recipe paper/finetune/imagenet_384 --model {model}{taught}"
        commands = (*commands, write.train(f"{later} --from {write.folder(named)}"))
    pixels = 384 if larger else 224
    runs = [
        run
        for run in _by_method(found.on_imagenet, method)
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
    taught = [group for group in groups.values() if any(run.is_distilled for run in group)]
    return max(taught, key=lambda group: len({_method(run) for run in group}), default=[])


def _same_settings(run: FoundRun, recipe: Recipe, settings: set[str]) -> bool:
    if run.recipe.mode not in ("pretrain", "scratch") or run.is_distilled:
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


def _grew(run: FoundRun, smaller: Sequence[FoundRun], optimizer: str) -> bool:
    """Return whether a run was fine-tuned from one of these at a higher resolution."""
    starts = {one.folder.path.resolve() for one in smaller}
    resumed = Path(run.recipe.model.pretrained).resolve() in starts
    same = run.recipe.optim.name == optimizer
    return resumed and same and run.recipe.mode == "finetune"
