"""Tables of sweeps and of lengths: within 80 columns, ASCII off a terminal, and true."""

import io
import re
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from rich.cells import cell_len
from rich.console import Console

from deit_transfer.paper.values import paper_top1
from deit_transfer.report.epochs_report import (
    PAPER_POINTS,
    epochs_markdown,
    epochs_png,
    epochs_table,
    paper_family,
)
from deit_transfer.report.sweep import setting_names, sweep_markdown, sweep_table

LONG = "a_setting_of_long_name_that_goes_on"


def trial(number: int, state: str, val_top1: float | None, **facts: Any) -> dict[str, Any]:
    settings = {"optim.peak_lr": 5e-4 / number, "optim.weight_decay": 0.03}
    return {
        "trial": number,
        "settings": settings,
        "recipe": None,
        "state": state,
        "val_top1": val_top1,
        "epoch": 3,
        "epochs": 9,
        "minutes": 12.5 * number,
        "run": f"runs/sweeps/photos/trial-{number:03d}",
        "reused": False,
        "reason": "",
    } | facts


ROWS = [
    trial(1, "done", 61.25),
    trial(2, "pruned", 40.0, reason="pruned after epoch 3"),
    trial(3, "done", 91.5),
    trial(4, "diverged", None, minutes=None, reason="step 9 is not | finite\x1b[31m"),
    trial(5, "done", 80.0),
]
WINNER = ROWS[2] | {
    "val_top1_ci95": [88.0, 94.0],
    "test_top1": 87.125,
    "test_top1_ci95": [86.0, 88.2],
}
SWEEP = {
    "dataset": "photos",
    "model": "deit_base_distilled_patch16_384",
    "mode": "finetune",
    "by": "grid",
    "varied": ["optim.peak_lr", "optim.weight_decay"],
    "default": None,
    "trials": ROWS,
    "winner": WINNER,
    "num_val_images": 500,
    "num_test_images": 10_000,
    "labels": ["the winner's validation figure flatters it"],
}
RECIPES = SWEEP | {
    "by": "recipes",
    "varied": [],
    "default": "default",
    "winner": WINNER | {"recipe": "no_stochastic_depth"},
    "trials": [
        row | {"recipe": name, "settings": {}, "paper": paper, "delta": delta, "delta_ci95": ends}
        for row, (name, paper, delta, ends) in zip(
            ROWS,
            [
                ("default", [81.8, 83.1], None, None),
                (LONG, None, None, None),
                ("no_stochastic_depth", [3.4, 0.1], 30.25, [25.0, 35.0]),
                ("no_mixup_no_cutmix", [75.8, 76.7], None, None),
                ("no_repeated_augmentation", [76.5, 77.4], -18.75, [-24.0, -13.0]),
            ],
            strict=True,
        )
    ],
}
MANY = SWEEP | {
    "varied": [f"optim.{LONG}{n}" for n in range(6)],
    "trials": [row | {"settings": {f"optim.{LONG}{n}": 0.125 for n in range(6)}} for row in ROWS],
}


def arm(name: str, top1: float, seconds: float) -> dict[str, Any]:
    return {
        "arm": name,
        "top1_mean": top1,
        "top1_ci95": [top1 - 1.5, top1 + 1.5],
        "ci_method": "t over seeds",
        "n": 3,
        "images_seen_mean": 1_234_567,
        "seconds_mean": seconds,
        "reused": 1,
        "runs": [{"top1": top1 + shift} for shift in (-0.5, 0.0, 0.5)],
    }


LENGTHS = {
    "dataset": "photos",
    "model": "deit_small_patch16_224",
    "mode": "scratch",
    "seeds": [0, 1, 2],
    "lengths": [30, 120],
    "points": [
        {
            "epochs": epochs,
            "arms": [arm("plain", top1, 3600.0), arm("distilled", top1 + 2.5, 4800.0)],
            "differences": [{"delta": 2.5, "delta_ci95": [0.5, 4.5], "p_value": 0.031}],
        }
        for epochs, top1 in ((30, 70.0), (120, 74.0))
    ],
    "gains": [
        {"arm": name, "from": 30, "to": 120, "delta": delta, "delta_ci95": [-1.0, 9.0],
         "p_value": p_value, "is_sure": p_value < 0.05}
        for name, delta, p_value in (("plain", 4.0, 0.2), ("distilled", 5.0, 0.01))
    ],
    "teacher": "runs/photos/teacher-resnet18-seed0",
    "teacher_top1": 83.25,
    "num_test_images": 10_000,
    "labels": ["two arms"],
}  # fmt: skip
SCREENS = {
    "grid": sweep_table(SWEEP),
    "ranked": sweep_table(SWEEP | {"by": "trials"}),
    "recipes": sweep_table(RECIPES),
    "many settings": sweep_table(MANY),
    "no winner": sweep_table(SWEEP | {"winner": None}),
    "lengths": epochs_table(LENGTHS),
}


def rendered(screen: object, *, terminal: bool = False) -> str:
    stream = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", errors="strict")
    Console(file=stream, width=80, force_terminal=terminal, color_system=None).print(screen)
    stream.flush()
    return stream.buffer.getvalue().decode()


@pytest.mark.parametrize("screen", SCREENS.values(), ids=SCREENS)
@pytest.mark.parametrize("terminal", [False, True])
def test_no_line_is_wider_than_80_and_no_control_code_gets_through(
    screen: object, terminal: bool
) -> None:
    text = rendered(screen, terminal=terminal)
    assert max(cell_len(line) for line in text.splitlines()) <= 80
    assert "\x1b[31m" not in text
    if not terminal:
        assert text.isascii()


def cells(text: str) -> list[list[str]]:
    lines = [line for line in text.splitlines() if line.startswith("|") and "---" not in line]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_a_grid_keeps_its_order_and_trials_are_ranked() -> None:
    grid = cells(rendered(SCREENS["grid"]))
    assert grid[0] == ["trial", "peak_lr", "weight_decay", "val top-1", "state", "time"]
    assert [row[0] for row in grid[1:]] == ["1", "2", "3", "4", "5"]
    assert grid[2][3:] == ["40.0", "pruned at 3/9", "25m00s"]
    assert grid[3] == ["3", "0.000167", "0.03", "91.5", "winner", "37m30s"]
    assert grid[4][3:] == ["-", "diverged", "-"]
    ranked = cells(rendered(SCREENS["ranked"]))
    assert [row[0] for row in ranked[1:]] == ["3", "5", "1", "2", "4"]


def test_the_test_figure_is_the_winners_and_stands_apart() -> None:
    for text in (rendered(SCREENS["grid"]), sweep_markdown(SWEEP, command="deit-transfer sweep")):
        flat = " ".join(text.split())
        assert flat.count("87.1%") == 1
        assert "had no part in the choice: 87.1% on 10,000 images" in flat
        assert "87.1" not in "".join(line for line in text.splitlines() if line.startswith("|"))


def test_recipes_show_differences_and_the_papers_figures_as_the_papers() -> None:
    text = rendered(SCREENS["recipes"])
    flat = " ".join(text.split())
    assert "Table 7, Touvron et al., ICML 2021) are of DeiT-B on ImageNet" in flat
    first = {row[0]: row for row in cells(text)}
    assert first["no_stochastic_depth"][1:3] == ["91.5", "+30.2"]
    assert first["no_stochastic_depth"][-1] == "3.4 / 0.1"
    assert first["no_mixup_no_cutmix"][1] == "diverged"
    assert "no_repeated_augmentation" in first
    without = RECIPES | {"trials": [row | {"paper": None} for row in RECIPES["trials"]]}
    assert "ImageNet" not in rendered(sweep_table(without))


def test_a_page_of_a_sweep_has_a_whole_table() -> None:
    for sweep in (SWEEP, RECIPES, MANY):
        page = sweep_markdown(sweep, command="deit-transfer sweep photos")
        table = [line for line in page.splitlines() if line.startswith("|")]
        assert len(table) == 2 + len(ROWS)
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table}) == 1
        assert "deit-transfer sweep photos" in page


def test_settings_are_called_by_their_last_part_where_that_tells_them_apart() -> None:
    assert setting_names(["optim.name", "model.name", "optim.eps"]) == {
        "optim.name": "optim.name",
        "model.name": "model.name",
        "optim.eps": "eps",
    }


def test_lengths_are_told_with_intervals_and_the_papers_points() -> None:
    text = rendered(SCREENS["lengths"])
    flat = " ".join(text.split())
    assert "plain, 30 to 120 epochs: +4.0 points [-1.0, +9.0], p = 0.200: cannot be" in flat
    assert "distilled, 30 to 120 epochs: +5.0 points [-1.0, +9.0], p = 0.010" in flat
    assert "DeiT-S (Touvron et al., ICML 2021, ImageNet, Tables 3 and 5): plain 79.8" in flat
    assert "teacher: runs/photos/teacher-resnet18-seed0, 83.2% on held-out images" in flat
    assert "reused: 4 of 12 runs" in flat
    assert cells(text)[1][:4] == ["epochs", "images", "plain", "distilled"]
    page = epochs_markdown(LENGTHS, command="deit-transfer epochs photos", figure="f.png")
    assert "| 120 | 1.23M | 74.0 ± 1.5 3 seeds | 76.5 ± 1.5 3 seeds |" in page


def test_the_papers_points_are_those_of_its_tables() -> None:
    names = {"DeiT-Ti": "tiny", "DeiT-S": "small", "DeiT-B": "base"}
    for family, points in PAPER_POINTS.items():
        for arm_name, form in (("plain", ""), ("distilled", "_distilled")):
            model = f"deit_{names[family]}{form}_patch16_224"
            known = paper_top1("imagenet", model, "pretrain")
            assert known is not None
            assert known.top1 == points[arm_name][300]
            assert paper_family(model) == family
    assert paper_family("deit_micro") == "DeiT-B"


@pytest.mark.parametrize("taught", [True, False])
def test_the_figure_of_lengths_is_drawn(tmp_path: Path, taught: bool) -> None:
    found: dict[str, Any] = dict(LENGTHS)
    if not taught:
        points = [{**point, "arms": point["arms"][:1]} for point in LENGTHS["points"]]
        found |= {"points": points, "dataset": "price $5_a$ and 数字"}
    epochs_png(tmp_path / "figure.png", found)
    with Image.open(tmp_path / "figure.png") as figure:
        assert figure.width > figure.height > 400
        colors = {color for _, color in figure.convert("RGB").getcolors(1 << 20)}
    assert (0xD5, 0x5E, 0x00) in colors  # plain
    assert (0x00, 0x9E, 0x73) in colors  # distilled: ours, or the paper's alone
