"""Collect the values of the page about one run.

Shapes: C classes that are in a matrix.
"""

import shlex
import tomllib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from deit_transfer.analysis import per_class
from deit_transfer.analysis.statistics import wilson_interval
from deit_transfer.engine.inference import Predictions, head_scores
from deit_transfer.html_report.attention import attention_rows
from deit_transfer.html_report.mistakes import (
    Pictures,
    most_confident_mistakes,
    read_page_predictions,
    worst_mistake_pictures,
)
from deit_transfer.html_report.page_values import (
    ClassRow,
    ConfusedRow,
    Fact,
    HeadRow,
    MatrixCell,
    MatrixRow,
    RunPage,
    SettingRow,
    Table,
)
from deit_transfer.html_report.sentences import run_cautions, run_sentences, run_title
from deit_transfer.html_report.svg_charts import Chart, Curve, line_chart
from deit_transfer.recipe.loader import (
    default_recipe_name,
    differing_values,
    find_recipe,
    list_recipes,
    load_recipe,
)
from deit_transfer.recipe.schema import Recipe
from deit_transfer.recipe.show import annotated_toml
from deit_transfer.report.number_format import counts_text, percent, tells_top5
from deit_transfer.report.result import HEAD_NAMES, result_facts
from deit_transfer.report.training_table import epoch_columns
from deit_transfer.runs.folder import (
    DATA_FILE,
    ENVIRONMENT_FILE,
    KEY_FILE,
    RECIPE_FILE,
    RESULT_FILE,
    RunFolder,
)
from deit_transfer.runs.predictions import UNDECIDED, StoredPredictions

MOST_MATRIX_CLASSES = 20
MOST_CONFUSED = 12
SURE = 0.9
HOTTEST_MISTAKE = 0.75  # the color of the most frequent mistake, between none (0) and full (1)


def run_page(
    folder: RunFolder,
    *,
    title: str = "",
    anchor: str,
    pictures: Pictures,
    num_images: int,
    attention: bool = False,
) -> RunPage:
    """Gather the page about a finished run.

    Args:
        folder: The run's.
        title: Its heading; empty: its model and dataset.
        anchor: What the page's links call the run.
        pictures: The test images.
        num_images: Pictures in each list of mistakes; 0 leaves the pictures out.
        attention: Show what the network attends to on a few of the images.

    Raises:
        CheckpointError: The run has not finished.
        DataError: Its predictions are gone or damaged.
    """
    result, records = folder.read_json(RESULT_FILE), folder.metrics()
    answers = read_page_predictions(folder)
    recipe = load_recipe(str(folder.path / RECIPE_FILE))
    found = per_class.class_scores(answers.decisions, answers.labels, answers.class_names)
    classes = [
        ClassRow(
            name=one.name, images=one.images, precision=one.precision, recall=one.recall, f1=one.f1
        )
        for one in found
    ]
    confusion = per_class.confusion(answers.decisions, answers.labels, answers.class_names)
    mistakes = per_class.worst_mistakes(confusion, most=MOST_CONFUSED)
    confused = [ConfusedRow(*mistake) for mistake in mistakes]
    limited = recipe.data.train_limit is not None or recipe.data.fraction is not None
    unreadable = int((answers.decisions == UNDECIDED).sum())
    base, settings = _changed_settings(recipe)
    return RunPage(
        anchor=anchor,
        title=title or run_title(result),
        folder=str(folder),
        sentences=run_sentences(result, classes, confused),
        cautions=run_cautions(result, train_limited=limited, unreadable=unreadable),
        facts=result_facts(result),
        heads=_head_rows(answers.stored),
        charts=learning_charts(records),
        epochs=_epoch_table(records),
        classes=classes,
        matrix=_matrix(confusion) if len(confusion.class_names) <= MOST_MATRIX_CLASSES else [],
        confused=confused,
        wrong=len(answers.wrong),
        sure_and_wrong=int((answers.given()[answers.wrong] >= SURE).sum()),
        worst=worst_mistake_pictures(answers, pictures, num_images),
        confident=most_confident_mistakes(answers, pictures, num_images),
        pictures_note=pictures.note,
        attention=attention_rows(folder, recipe, answers, pictures) if attention else [],
        recipe_base=base,
        settings=settings,
        recipe=annotated_toml(recipe).splitlines(),
        environment=_environment(folder, result),
        provenance=_provenance(folder, recipe),
    )


def learning_charts(records: Sequence[Mapping[str, Any]]) -> list[Chart]:
    """Return a run's curves: accuracy on validation images, and losses."""
    epochs = [float(record["epoch"]) for record in records]

    def curve(name: str, key: str, *, within: str = "") -> Curve:
        rows = [(record.get(within) or {}) if within else record for record in records]
        return Curve(name=name, x=epochs, y=[row.get(key) for row in rows])

    accuracy = line_chart(
        [
            curve("network", "val_top1"),
            curve("averaged weights (EMA)", "ema_top1"),
            curve("class head", "class", within="heads"),
            curve("distillation head", "distill", within="heads"),
        ],
        title="Accuracy on validation images",
        x_title="epoch",
        y_title="top-1 in percent",
    )
    loss = line_chart(
        [
            curve("training", "loss"),
            curve("validation", "val_loss"),
            curve("validation, averaged weights", "ema_loss"),
        ],
        title="Loss",
        x_title="epoch",
        y_title="mean loss of an image (training: with its augmentation and smoothing)",
        digits=3,
    )
    return [chart for chart in (accuracy, loss) if chart is not None]


def _epoch_table(records: Sequence[Mapping[str, Any]]) -> Table:
    if not records:
        return Table((), ())
    last = records[-1]
    columns = epoch_columns(
        distilled="heads" in last, ema="ema_top1" in last, taught="teacher_agreement" in last
    )
    rows = [[column.cell(record) for column in columns] for record in records]
    return Table([column.title for column in columns], rows)


def _head_rows(stored: StoredPredictions) -> list[HeadRow]:
    distill = stored.distill_logits
    predictions = Predictions(
        indices=torch.arange(len(stored.labels)),
        labels=torch.from_numpy(stored.labels),
        class_logits=torch.from_numpy(stored.class_logits),
        distill_logits=None if distill is None else torch.from_numpy(distill),
    )
    scores = head_scores(predictions)
    rows = []
    for name in stored.heads:
        one = scores[name]
        interval = wilson_interval(round(one.top1 * one.n / 100), one.n)
        top5 = one.top5 if tells_top5({"num_classes": stored.class_logits.shape[1]}) else None
        figures = (top5, one.mean_per_class, one.loss)
        rows.append(HeadRow(HEAD_NAMES[name], one.top1, interval.low, interval.high, *figures))
    return rows


def _matrix(found: per_class.Confusion) -> list[MatrixRow]:
    counts = found.counts  # (C, C)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    mistakes = np.where(np.eye(len(counts), dtype=bool), 0, shares)
    # mistakes are rare beside right answers, and would all look alike on one scale
    scale = HOTTEST_MISTAKE / (mistakes.max() or 1.0)
    return [
        MatrixRow(
            name,
            [
                MatrixCell(
                    images=int(counts[row, column]),
                    percent=100 * float(shares[row, column]),
                    heat=float(shares[row, column] * (1.0 if row == column else scale)),
                    right=row == column,
                )
                for column in range(len(counts))
            ],
        )
        for row, name in enumerate(found.class_names)
    ]


def _changed_settings(recipe: Recipe) -> tuple[str, list[SettingRow]]:
    """Return the shipped recipe that a run was made from, and what differs from it."""
    name = _shipped_name(recipe)
    changed = differing_values(load_recipe(name), recipe)
    rows = [SettingRow(key, _value(ours), _value(base)) for key, (base, ours) in changed.items()]
    return name, rows


def _shipped_name(recipe: Recipe) -> str:
    """Find the shipped recipe of the same title; the mode's default where there is none."""
    for name in list_recipes():
        values = tomllib.loads(find_recipe(name).read_text(encoding="utf-8"))
        if recipe.title and values.get("title") == recipe.title:
            return name
    mode = recipe.mode if recipe.mode in ("finetune", "scratch") else "finetune"
    return default_recipe_name(mode, recipe.data.dataset)


def _value(value: Any) -> str:
    if value is None or value == ():
        return "none"
    if isinstance(value, tuple | list):
        return ", ".join(str(part) for part in value)
    return f"{value:g}" if isinstance(value, float) else str(value) or "not set"


def _environment(folder: RunFolder, result: Mapping[str, Any]) -> list[Fact]:
    environment = folder.read_json(ENVIRONMENT_FILE)
    packages = environment.get("packages") or {}
    facts = [
        ("device", result.get("device")),
        ("precision", result.get("precision")),
        ("processor", environment.get("processor")),
        ("cores, threads", _pair(environment.get("cores"), environment.get("threads"))),
        ("GPU", environment.get("gpu") or "none"),
        ("system", environment.get("platform")),
        ("Python", environment.get("python")),
        *sorted(packages.items()),
    ]
    return _told(facts)


def _provenance(folder: RunFolder, recipe: Recipe) -> list[Fact]:
    environment, data = folder.read_json(ENVIRONMENT_FILE), folder.read_json(DATA_FILE)
    start, status = folder.read_json("load_report.json"), folder.status()
    shares = [
        f"{action} {percent(share, digits=2)}%"
        for action, share in (start.get("percents") or {}).items()
        if share
    ]
    command = environment.get("command") or []
    facts = [
        ("run folder", str(folder)),
        ("finished", status.get("time")),
        ("command", shlex.join(["deit-transfer", *command[1:]]) if command else None),
        ("source commit", environment.get("commit")),
        ("pretrained", start.get("origin")),
        ("parameters", ", ".join(shares)),
        ("teacher", recipe.distill.teacher if recipe.distill.kind != "none" else None),
        ("dataset", data.get("dataset")),
        ("read from", data.get("root")),
        ("layout", data.get("layout")),
        ("images", counts_text(data["counts"]) if data.get("counts") else None),
        *(("note on the data", note) for note in data.get("notes") or []),
        ("fingerprint of the data", data.get("fingerprint")),
        ("key of recipe, data and weights", folder.read_json(KEY_FILE).get("key")),
        ("SHA-256 of the weights", folder.read_json("model.json").get("weights_sha256")),
    ]
    return _told(facts)


def _pair(first: object, second: object) -> str | None:
    return None if first is None else f"{first}, {second}"


def _told(facts: Sequence[tuple[str, Any]]) -> list[Fact]:
    return [(label, str(value)) for label, value in facts if value not in (None, "")]
