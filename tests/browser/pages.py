"""Make a page of each kind in which every part is there, out of nothing but names."""

import io
from collections.abc import Sequence

import numpy as np
from PIL import Image

from deit_transfer.html_report.page_values import (
    ArmRow,
    AttentionMap,
    AttentionRow,
    ClassRow,
    ComparisonPage,
    ConfusedRow,
    Figure,
    HeadRow,
    MatrixCell,
    MatrixRow,
    MistakePicture,
    RunPage,
    SettingRow,
    Table,
)
from deit_transfer.html_report.svg_charts import Chart, Curve, line_chart
from deit_transfer.html_report.thumbnails import data_uri, spotlight, thumbnail

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (32, 32, 3), dtype=np.uint8)
PHOTO = RNG.integers(0, 256, (150, 400, 3), dtype=np.uint8)
DIGEST = "d6f81e1dc8204083222299fc52f8863fb89ca9b947b977cedfdd57ded944767c"
PATH = "/home/someone/with-a-very-long-path/to/photographs_of_birds/and-more/of-them/run-seed0"


def full_run(names: Sequence[str]) -> RunPage:
    """Return a page whose classes have these names."""
    count = len(names)
    shares = np.linspace(0, 1, count * count).reshape(count, count)
    mistakes = [
        MistakePicture(f"test/{true}/00.jpg", true, given, 97.5, 0.1, 6.9, thumbnail(pixels))
        for true, given, pixels in zip(names, reversed(names), (PIXELS, PHOTO, PIXELS), strict=True)
    ]
    light = thumbnail(spotlight(PHOTO, np.eye(7, dtype=np.float32)))
    maps = [
        AttentionMap(f"distillation token, {kind}", light) for kind in ("last layer", "rollout")
    ]
    return RunPage(
        anchor="run-1",
        title=f"deit_base_distilled_patch16_384 on {names[1]}",
        folder=PATH,
        sentences=[f"It gets 87.2% right and is best at {name}." for name in names],
        cautions=["Only 5,000 labeled images were used.", f"Beware of {names[1]}."],
        facts=[("top-1", "87.18 (Wilson 95% interval 86.51 to 87.82)"), ("run", PATH)],
        heads=[
            HeadRow(name, 87.18, 86.5, 87.8, 99.3, 87.2, 0.4333)
            for name in ("class head", "distillation head", "both heads")
        ],
        charts=[chart("Accuracy"), chart("Loss")],
        epochs=Table(["epoch", "loss"], [[str(n), "1.25"] for n in range(40)]),
        classes=[
            ClassRow(f"{name} {n}", 1000, 75.6, 75.7, 75.6) for name in names for n in range(9)
        ],
        matrix=[
            MatrixRow(
                name,
                [
                    MatrixCell(1234, 50.0, float(heat), row == column)
                    for column, heat in enumerate(shares[row])
                ],
            )
            for row, name in enumerate(names)
        ],
        confused=[ConfusedRow(true, given, 121, 12.1) for true in names for given in names],
        wrong=1282,
        sure_and_wrong=75,
        worst=mistakes,
        confident=mistakes,
        pictures_note=f"The dataset {PATH} has changed since.",
        attention=[AttentionRow(name, thumbnail(PHOTO), maps * 2) for name in names],
        recipe_base="finetune/folder",
        settings=[SettingRow("data.dataset", PATH, "not set")],
        recipe=["[data]", f'dataset = "{PATH}" # {"a long sentence " * 12}'],
        environment=[("processor", "Intel(R) Xeon(R) Processor"), ("torch", "2.15.0")],
        provenance=[("fingerprint of the data", DIGEST), ("command", f"deit-transfer {PATH}")],
    )


def full_comparison(names: Sequence[str]) -> ComparisonPage:
    """Return a page whose arms, and whose runs' classes, have these names."""
    drawn = io.BytesIO()
    Image.fromarray(PHOTO).resize((1800, 900)).save(drawn, "PNG")
    return ComparisonPage(
        title="What does pretraining buy? deit_tiny_patch16_224 on birds",
        answer="Starting from ImageNet instead of from scratch bought 58.2 points of top-1 here.",
        sentences=["Fine-tuning with 10% of the labels matches scratch with all of them."],
        differences=[f"{name} - scratch: +58.25 points of top-1" for name in names],
        cautions=["one seed: Wilson intervals cover the test images drawn, not other seeds"],
        arm_titles=("top-5", "mean per class", "images seen", "time", "images/s", "paper"),
        arms=[
            ArmRow(name, 28.9, 20.0, 35.0, "[20.0, 35.0], test images", ["99.9"] * 6, name == "owl")
            for name in names
        ],
        charts=[chart("Accuracy"), chart("Loss")],
        figures=[
            Figure("curves, as it was drawn then", data_uri(drawn.getvalue(), kind="image/png"))
        ],
        tables=[("Top-1 by labeled images", Table(["share", *names], [["1%", "10", "20", "30"]]))],
        classes=Table(
            ["class", *names], [[f"{name} {n}", "1", "2", "3"] for name in names for n in range(9)]
        ),
        runs=[full_run(names)],
        missing_runs=[f"{PATH} has no run folder here, so only its scores are shown."],
        setup=[("folder", PATH), ("fingerprint of the data", DIGEST)],
    )


def chart(title: str) -> Chart:
    """Return a chart of six curves."""
    epochs = list(range(1, 31))
    curves = [
        Curve(name=f"curve {n}", x=epochs, y=[n + 90 * (1 - 0.8**epoch) for epoch in epochs])
        for n in range(6)
    ]
    made = line_chart(curves, title=title, x_title="epoch", y_title="top-1 in percent")
    assert made is not None
    return made
