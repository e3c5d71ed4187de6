"""The paper's tables of specifications with ours beside them: Tables 1, 8 and 9."""

from collections.abc import Mapping
from typing import Any

from deit_transfer.data.catalog import find_dataset, list_datasets
from deit_transfer.models.variants import VARIANTS
from deit_transfer.paper.cells import Filled, TableCell, TableRow
from deit_transfer.paper.commands import Writer
from deit_transfer.paper.evidence import DATASETS, FoundRun, FoundRuns
from deit_transfer.paper.values import NETWORKS, TABLES, PaperValue
from deit_transfer.recipe.loader import load_recipe
from deit_transfer.recipe.schema import Recipe
from deit_transfer.report.number_format import counted


def fill_table1(found: FoundRuns) -> Filled:
    """Put the three DeiTs as built here, and their speed here, beside Table 1."""
    rows = []
    for name, figures in TABLES["table1"].rows.items():
        variant = VARIANTS[NETWORKS[name].model]
        cells = (
            TableCell(value=variant.embed_dim),
            TableCell(value=variant.num_heads),
            params_cell(found, name),
            speed_cell(found, name),
        )
        rows.append(TableRow(name=name, paper=figures, here=cells))
    return rows, [], []


def fill_table8(found: FoundRuns) -> Filled:
    """Put the datasets of this machine, or what a run counted, beside the paper's."""
    catalog = {info.name: info for info in list_datasets()}
    rows = []
    for word, (title, name) in DATASETS.items():
        values: tuple[int | None, ...] = (None, None, None)
        if find_dataset(name) is not None:
            info = catalog[name]
            counts = dict(info.counts)
            labeled = counts.get("train", 0) + counts.get("val", 0)
            values = (labeled, counts.get("test"), info.num_classes)
        elif seen := [run for run in found.runs if run.dataset == word]:
            values = _counted(seen[-1])
        commands = (f"deit-transfer data prepare {name}",)
        cells = [
            TableCell(value=v) if v is not None else TableCell(commands=commands) for v in values
        ]
        rows.append(TableRow(name=title, paper=TABLES["table8"].rows[title], here=cells))
    order = list(TABLES["table8"].rows)
    rows.sort(key=lambda row: order.index(row.name))
    return rows, [], ["here: the dataset where it lies on this machine, or as a run counted it"]


def fill_table9(_found: FoundRuns) -> Filled:
    """Put the shipped recipe's settings beside Table 9."""
    ours = _settings(load_recipe("pretrain/deit_base"))
    rows = [
        TableRow(name=name, paper=figures, here=(TableCell(value=ours[name]),))
        for name, figures in TABLES["table9"].rows.items()
    ]
    return rows, [], ["deit-transfer recipes show pretrain/deit_base has the source of each value"]


def speed_cell(found: FoundRuns, name: str) -> TableCell:
    """Return the images a second that a kept measurement gives a network of the paper."""
    timed = _timed(found, name)
    if timed is None:
        return TableCell(commands=Writer(found.out).throughput(name))
    label = (
        f"{timed.get('hardware') or timed.get('device')}, {timed['precision']}, batch "
        f"{timed['batch_size']}, mean of {counted(timed['repeats'], 'run')}; another machine than "
        "the paper's"
    )
    value = float(timed["images_per_second"])
    return TableCell(value=value, label=label, runs=(str(timed["file"]),))


def params_cell(found: FoundRuns, name: str) -> TableCell:
    """Return a network's parameters, in millions: known of a DeiT, else as counted when timed."""
    variant = VARIANTS.get(NETWORKS[name].model)
    if variant is not None and variant.parameters is not None:
        return TableCell(value=round(variant.parameters / 1e6, 1))
    timed = _timed(found, name)
    if timed is None:
        return TableCell(commands=Writer(found.out).throughput(name))
    return TableCell(value=round(timed["params"] / 1e6, 1))


def _timed(found: FoundRuns, name: str) -> Mapping[str, Any] | None:
    """Return the last kept measurement of a network of the paper, at the paper's size."""
    network, size = NETWORKS[name], TABLES["table5"].column("size").get(name)
    for timed in reversed(found.speeds):
        same = timed["model"] in (network.model, network.weights)
        if same and size in (None, timed["resolution"]):
            return timed
    return None


def _counted(run: FoundRun) -> tuple[int | None, int | None, int | None]:
    """Return labeled images, test images and classes as a run found them."""
    counts = run.result.get("counts") or {}
    labeled = None if run.is_limited else counts.get("train", 0) + counts.get("val", 0)
    names = run.folder.class_names()
    classes = len(names) if names and not run.recipe.data.classes else None
    return labeled, counts.get("test"), classes


def _settings(recipe: Recipe) -> dict[str, PaperValue]:
    """Return a recipe's values by the names that Table 9 gives them."""
    optim, augment, schedule = recipe.optim, recipe.augment, recipe.schedule
    strength, *options = augment.randaugment.removeprefix("rand-m").split("-")
    deviation = next((x.removeprefix("mstd") for x in options if x.startswith("mstd")), "0")
    names = {"adamw": "AdamW", "sgd": "SGD", "lamb": "LAMB"}
    return {
        "epochs": schedule.epochs,
        "batch size": schedule.batch_size,
        "optimizer": names[optim.name],
        "learning rate": f"{optim.peak_lr:g} x batch / 512",
        "decay of the learning rate": "cosine",
        "weight decay": optim.weight_decay,
        "warm-up epochs": schedule.warmup_epochs,
        "gradient clipping": optim.clip_grad_norm or "no",
        "label smoothing": augment.smoothing,
        "dropout": recipe.model.dropout or "no",
        "stochastic depth": recipe.model.drop_path,
        "repeated augmentation": augment.repeats,
        "RandAugment": f"{strength} / {deviation}",
        "Mixup": augment.mixup,
        "CutMix": augment.cutmix,
        "random erasing": augment.erasing,
    }
