"""Label efficiency and several datasets on screen, in a figure and on a page."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from deit_transfer.analysis.comparison import ArmRuns, build_comparison
from deit_transfer.analysis.label_efficiency import Size, exchange_rates
from deit_transfer.report.comparison import comparison_table
from deit_transfer.report.comparison_markdown import comparison_markdown, datasets_markdown
from deit_transfer.report.comparison_plots import efficiency_png
from deit_transfer.report.datasets_comparison import datasets_table
from deit_transfer.report.label_efficiency import exchange_sentences

ARMS = {"scratch": 0.3, "finetune": 0.7, "probe": 0.6, "paper/finetune/cifar10": 0.72}


def runs(name: str, right: float, *, paper: float | None = None) -> ArmRuns:
    rng = np.random.default_rng(len(name))
    seeds: list[int | None] = [None] if name == "probe" else [0, 1, 2]
    correct = [rng.random(500) < right for _ in seeds]
    results = [
        {
            "run": f"runs/{name}-{seed}",
            "seed": seed,
            "top1": 100 * array.mean(),
            "top5": 99.0,
            "mean_per_class": 50.0,
            "loss": 0.5,
            "images_seen": 1000,
            "seconds": 10.0,
            "images_per_second": 100.0,
        }
        for seed, array in zip(seeds, correct, strict=True)
    ]
    label = "DeiT-B, Table 6" if paper is not None else ""
    return ArmRuns(arm=name, results=results, correct=correct, paper_top1=paper, paper_label=label)


@pytest.fixture(scope="module")
def comparison() -> dict:
    sizes = [
        Size(
            fraction=fraction,
            labels=round(50_000 * fraction),
            arms={name: runs(name, base + gain) for name, base in ARMS.items()},
        )
        for fraction, gain in ((0.01, 0.0), (0.1, 0.1), (1, 0.2))
    ]
    largest = list(sizes[-1].arms.values())
    found = build_comparison(
        arms=largest, dataset="cifar10", model="deit_tiny", start="imagenet", budget="recipe"
    )
    rates = exchange_rates(sizes, baseline="scratch")
    points = [
        {
            "fraction": size.fraction,
            "labels": size.labels,
            "arms": build_comparison(
                arms=list(size.arms.values()), dataset="", model="", start="", budget=""
            )["arms"],
        }
        for size in sizes
    ]
    sentences = exchange_sentences(rates)
    return found | {"label_efficiency": {"points": points, "sentences": sentences}}


def rendered(screen: object) -> str:
    console = Console(file=io.StringIO(), width=80, no_color=True, force_terminal=False)
    console.print(screen)
    return console.file.getvalue()


def test_the_table_has_every_size_and_says_what_labels_are_worth(comparison: dict) -> None:
    text = rendered(comparison_table(comparison))
    assert max(map(len, text.splitlines())) <= 80
    assert "100% of the labels (50,000)" in " ".join(text.split())
    for part in ("500", "5,000", "50,000", "1%", "10%"):
        assert part in text
    point = comparison["label_efficiency"]["points"][0]["arms"][1]
    assert f"{point['top1_mean']:.1f} +- " in text
    assert "finetune with 1% of the labels (500) matches scratch with more than 100%" in " ".join(
        text.split()
    )


def test_the_figure_draws_every_arm_in_its_color(tmp_path: Path, comparison: dict) -> None:
    efficiency_png(
        tmp_path / "e.png", comparison["label_efficiency"]["points"], title="$a$ on cifar_10"
    )
    with Image.open(tmp_path / "e.png") as figure:
        image = np.asarray(figure.convert("RGB")).astype(int)
    for color in ((0xD5, 0x5E, 0x00), (0x00, 0x72, 0xB2), (0x00, 0x9E, 0x73), (0xCC, 0x79, 0xA7)):
        assert (np.abs(image - np.array(color)).max(-1) < 12).mean() > 0.0005
    with pytest.raises(ValueError, match="at least one size"):
        efficiency_png(tmp_path / "none.png", [])


def test_the_page_has_the_curves_and_their_words(comparison: dict) -> None:
    page = comparison_markdown(comparison, efficiency_figure="label-efficiency.png")
    assert "## What labels are worth" in page
    assert "![Top-1 by labeled images](<label-efficiency.png>)" in page
    assert "| 10% | 5,000 |" in page


@pytest.fixture
def table() -> dict:
    names = ["cifar10", "flowers102", "cars", "inat2018", "inat2019"]
    comparisons = [
        build_comparison(
            arms=[runs("scratch", 0.3), runs("finetune", 0.8, paper=98.4)],
            dataset=name,
            model="deit_tiny",
            start="imagenet",
            budget="recipe",
        )
        | {"folder": f"runs/comparisons/{name}"}
        for name in names
    ]
    rows = []
    for place, arm in enumerate(("scratch", "finetune")):
        cells = {name: one["arms"][place] for name, one in zip(names, comparisons, strict=True)}
        rows.append({"arm": arm, "whose": "ours", "cells": cells})
    paper = {name: {"top1": 98.4, "label": "DeiT-B, Table 6"} for name in names[:3]}
    rows.append({"arm": "finetune", "whose": "paper", "cells": paper})
    failed = [{"dataset": "imagenet", "error": "there is none", "hint": "", "exit_code": 3}]
    notes = ["the paper, finetune: DeiT-B, Table 6"]
    return {
        "datasets": names,
        "rows": rows,
        "comparisons": comparisons,
        "failed": failed,
        "labels": notes,
    }


def test_many_datasets_fit_and_the_papers_row_is_called_so(table: dict) -> None:
    text = rendered(datasets_table(table))
    assert max(map(len, text.splitlines())) <= 80
    assert "..." not in text
    for name in table["datasets"]:
        assert name in text
    assert text.count("98.4") == 3
    assert "the paper," in text
    assert "imagenet failed: there is none" in text
    assert "DeiT-B, Table 6" in text


def test_the_page_of_several_datasets_names_each_comparison(table: dict) -> None:
    page = datasets_markdown(table, command="deit-transfer compare a b")
    assert "| the paper, finetune | 98.4 | 98.4 | 98.4 | - | - |" in page
    assert "(runs/comparisons/cars)" in page
    assert "- imagenet: there is none" in page
