"""Every table at 80 columns: nothing too wide, nothing cut, nothing but ASCII off a terminal."""

import dataclasses
import io
import re
import subprocess
import sys

import numpy as np
import pytest
from rich.cells import cell_len
from rich.console import Console

from deit_transfer.analysis.comparison import ArmRuns, build_comparison
from deit_transfer.report.comparison import comparison_table, verdict
from deit_transfer.report.comparison_markdown import comparison_markdown
from deit_transfer.report.header import HeaderFacts, run_header
from deit_transfer.report.listings import (
    check_table,
    dataset_table,
    difference_table,
    load_report_table,
    recipe_table,
)
from deit_transfer.report.result import result_table
from deit_transfer.report.runs import run_screens, runs_table

WIDTH = 80
LONG_NAME = "deit_base_distilled_patch16_384"
LONG_PATH = "/home/someone/" + "a-folder-with-a-long-name/" * 6 + "model.safetensors"
HOSTILE = "photo\x1b[31mred\x07 [bold]tag[/bold] :smile: \udcff\nnext"

FACTS = HeaderFacts(
    mode="finetune",
    dataset="CIFAR-10",
    counts={"train": 45_000, "val": 5_000, "test": 10_000},
    class_names=["airplane", "automobile", "bird", "cat", "deer", "dog", "frog"],
    layout="python batches",
    data_notes=["validation carved from train"],
    model=LONG_NAME,
    resolution=384,
    num_params=87_630_000,
    num_trainable=1_536,
    start="imagenet",
    start_origin=LONG_PATH,
    load_report=["copied 150 weights (99.9% of the backbone)", "dropped head.weight"],
    recipe="finetune/cifar10",
    device="cuda:0",
    precision="bf16",
    precision_reason="the hardware has it",
    attention="fused",
    steps_note="compiled (saves 60 s for 20 s)",
    keeps_memory=True,
    batch_size=768,
    micro_batch_size=96,
    accumulation=8,
    peak_lr=5e-5,
    scaled_lr=7.5e-5,
    floor_lr=1e-6,
    warmup_epochs=5,
    epochs=1000,
    epochs_note="raised from 5 by min_steps",
    steps=65_104,
    images_to_see=50_000_000,
    augmentation="RandAugment rand-m9-mstd0.5-inc1, Mixup 0.8, CutMix 1.0, erasing 0.25",
    distillation="hard, through the token, from regnety_160",
    selection="the epoch best on test",
    selects_on_test=True,
    estimated_seconds=190_000,
    run_folder=LONG_PATH,
    seed=7,
    notes=["a subset of the data"],
)

RESULT = {
    "run": LONG_PATH,
    "mode": "finetune",
    "dataset": "cifar10",
    "model": LONG_NAME,
    "pretrained": "imagenet",
    "seed": 3,
    "top1": 91.234,
    "top1_ci95": [90.66, 91.78],
    "top5": 99.81,
    "mean_per_class": 91.11,
    "loss": 0.29871,
    "num_test_images": 10_000,
    "heads": {"class": 91.01, "distill": 91.12, "joint": 91.23},
    "teacher_top1": 95.44,
    "teacher_agreement": 93.21,
    "val_top1_raw": 91.5,
    "val_top1_ema": 91.6,
    "weights": "ema",
    "selected_epoch": 9,
    "epochs": 10,
    "selects_on_test": True,
    "images_seen": 450_000,
    "seconds": 1234,
    "images_per_second": 364.6,
    "paper_top1": 99.1,
    "paper_label": "DeiT-B, Table 6",
}


def comparison(
    *, seeds: int = 3, rates: tuple[float, ...] = (0.41, 0.91), paper: float | None = 97.5
) -> dict:
    rng = np.random.default_rng(5)
    arms = []
    for arm, right in zip(("scratch", "finetune", "finetune+distill"), rates, strict=False):
        correct = [rng.random(1000) < right for _ in range(seeds)]
        results = [
            {
                "run": f"runs/{arm}-{seed}",
                "seed": seed,
                "top1": 100 * array.mean(),
                "top5": 100.0,
                "mean_per_class": 100.0,
                "loss": 0.3,
                "images_seen": 999_999_999 if arm == "scratch" else 450_000,
                "seconds": 3_599.0,
                "images_per_second": 12_345.0,
            }
            for seed, array in enumerate(correct)
        ]
        arms.append(
            ArmRuns(
                arm=arm,
                results=results,
                correct=correct,
                paper_top1=paper,
                paper_label="" if paper is None else "DeiT-B, Table 6",
                reused=1,
            )
        )
    return build_comparison(
        arms=arms,
        dataset="CIFAR-10",
        model=LONG_NAME,
        start="imagenet",
        budget="recipe",
        labels=["5,000 training images"],
    )


LISTINGS = {
    "datasets": dataset_table(
        [
            {
                "name": "oxford-flowers102",
                "title": "Flowers: 102 kinds of flowers common in the United Kingdom",
                "num_classes": 102,
                "counts": {"train": 1020, "val": 1020, "test": 6149},
                "license": "research only",
                "found": LONG_PATH,
            },
            {
                "name": "folder",
                "title": "Any folder of class folders",
                "num_classes": None,
                "counts": {},
                "license": "",
                "found": None,
            },
        ]
    ),
    "recipes": recipe_table(
        [
            {
                "name": "paper/finetune/inaturalist2018",
                "title": "The published protocol: 360 epochs at batch 768",
                "model": LONG_NAME,
                "measured": "97.91 [97.80 .. 98.02] over 3 seeds",
                "minutes": 720.5,
            },
            {"name": "finetune/" + "x" * 90, "title": "", "model": None},
        ]
    ),
    "runs": runs_table(
        [
            {
                "run": f"finetune-cifar10-{LONG_NAME}-20250101-101010",
                "mode": "finetune",
                "model": LONG_NAME,
                "dataset": "cifar10",
                "pretrained": LONG_PATH,
                "seed": 4_294_967_295,
                "top1": 100.0,
                "state": "running",
            },
            {"run": "x", "state": "failed", "mode": None, "seed": None, "top1": None},
        ]
    ),
    "settings": difference_table(
        [
            {"setting": "optim.peak_lr", "first": 5e-4, "second": 7.5e-6},
            {"setting": "schedule.progressive", "first": (), "second": ((160, 0.5), (192, 0.25))},
            {"setting": "optim.clip_grad_norm", "first": None, "second": 1.0},
        ],
        first="finetune/cifar10",
        second="paper/finetune/cifar10-of-a-long-name-that-needs-folding",
    ),
    "check": check_table(
        {
            "dataset": "my photos",
            "root": LONG_PATH,
            "layout": "train, val",
            "counts": {"train": 100, "val": 20},
            "class_names": [f"class number {i}" for i in range(300)],
            "problems": [f"{LONG_PATH} cannot be read"] * 30,
            "warnings": ["class c has one image"],
            "facts": [("balance", "1 to 60 images a class")],
            "notes": ["skipped 3 files"],
        }
    ),
    "load report": load_report_table(
        {
            "items": [
                *((f"blocks.{i}.attn.qkv.weight", "copied", "") for i in range(150)),
                {"key": "pos_embed", "action": "interpolated", "detail": "14x14 to 24x24"},
                ("head.weight", "initialized", "10 classes"),
                ("head_dist.weight", "dropped", "1000 classes"),
            ],
            "summary": ["99.9% of the backbone copied"],
            "percents": {"copied": 99.61},
        }
    ),
}
RUN_FACTS = {
    "run": LONG_PATH,
    "status": {"state": "done", "detail": "", "time": "2025-01-01T10:10:10+0000", "pid": 1},
    "result": RESULT,
    "epochs": [{"epoch": e, "epochs": 50, "loss": 1.5, "ema_top1": 50.0} for e in range(1, 51)],
    "pretrained": {
        "pretrained": "imagenet",
        "origin": LONG_PATH,
        "items": [("pos_embed", "copied", "")],
    },
    "data": {"dataset": "cifar10", "counts": {"train": 45_000}, "notes": ["a", "b"]},
    "environment": {
        "gpu": None,
        "packages": {"torch": "2.15.0", "timm": None},
        "command": ["x", "a b"],
    },
}
SCREENS = {
    "header": run_header(FACTS),
    "result": result_table(RESULT),
    "comparison": comparison_table(comparison()),
    "comparison of three": comparison_table(comparison(rates=(0.4, 0.9, 0.92))),
    "comparison of one seed": comparison_table(comparison(seeds=1)),
    "comparison at the top": comparison_table(comparison(seeds=2, rates=(0.999, 1.0))),
    **LISTINGS,
    **{f"run {place}": screen for place, screen in enumerate(run_screens(RUN_FACTS))},
}
each_screen = pytest.mark.parametrize("screen", SCREENS.values(), ids=SCREENS)


def rendered(screen: object, *, terminal: bool = False, encoding: str = "utf-8") -> str:
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors="strict")
    console = Console(
        file=stream,
        width=WIDTH,
        force_terminal=terminal,
        color_system="truecolor" if terminal else None,
    )
    console.print(screen)
    stream.flush()
    return stream.buffer.getvalue().decode(encoding)


def unfolded(text: str) -> str:
    """Return what the cells hold without boxes, line ends and blanks, for searching."""
    return re.sub(r"[\s|+\-]", "", text)


@each_screen
@pytest.mark.parametrize("terminal", [False, True])
def test_no_line_is_wider_than_80_and_no_box_is_open(screen, terminal):
    lines = re.sub(r"\x1b\[[0-9;]*m", "", rendered(screen, terminal=terminal)).splitlines()
    assert max(cell_len(line) for line in lines) <= WIDTH
    boxed = [line for line in lines if line.startswith(("|", "+-", "│", "╭", "├", "╰"))]
    assert len({cell_len(line) for line in boxed}) <= 1
    assert {line[-1] for line in boxed} <= set("|+│╮┤╯")


@each_screen
def test_off_a_terminal_there_is_only_ascii_and_no_escape_code(screen):
    stream = io.StringIO()
    Console(file=stream, width=WIDTH).print(screen)
    text = stream.getvalue()
    assert text.isascii()
    assert text.replace("\n", "").isprintable()


@each_screen
def test_on_a_terminal_boxes_are_lines(screen):
    text = rendered(screen, terminal=True)
    assert "+--" not in text
    assert "…" not in text
    assert ("╭" in text) == ("+--" in rendered(screen))


def test_an_ascii_terminal_gets_ascii_even_for_names():
    facts = dataclasses.replace(FACTS, class_names=["フグ", "Äpfel"])
    text = rendered(run_header(facts), terminal=True, encoding="ascii")
    assert "\\u30d5\\u30b0, \\xc4pfel" in text


def test_no_color_leaves_no_color(monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    text = rendered(SCREENS["header"], terminal=True)
    assert not re.search(r"\x1b\[[0-9;]*3[0-7]m", text)


def test_the_header_says_every_fact():
    text = unfolded(rendered(SCREENS["header"]))
    said = [
        "Finetune:deit_base_distilled_patch16_384onCIFAR10",
        "train45,000,val5,000,test10,000",
        "7:airplane,automobile,bird,cat,deer,dogand1more",
        "pythonbatches",
        "384px,87.6Mparameters,1.54kofthemtrained",
        "copied150weights(99.9%ofthebackbone)",
        "droppedhead.weight",
        "cuda:0,bf16(thehardwarehasit),fusedattention,freedmemorykept",
        "compiled(saves60sfor20s)",
        "768imagesastep,in8forwardpassesof96",
        "5e5atbatch512>7.5e5atbatch768",
        "5epochsofwarmup,thenfallingto1e6",
        "1,000epochs(raisedfrom5bymin_steps),65,104steps,50,000,000imagesseen",
        "hard,throughthetoken,fromregnety_160",
        "selectedontest:thepaper'sprotocol",
        "about2d05h",
        unfolded(LONG_PATH),
    ]
    assert [fact for fact in said if fact not in text] == []


def test_the_header_leaves_out_what_is_not_known():
    facts = dataclasses.replace(
        FACTS,
        distillation="",
        estimated_seconds=None,
        selects_on_test=False,
        data_notes=(),
        accumulation=1,
        num_trainable=FACTS.num_params,
        warmup_epochs=0,
    )
    text = rendered(run_header(facts))
    assert "distillation" not in text
    assert "about" not in text
    assert "selected on test" not in text
    assert "forward passes" not in text
    assert "all trained" in text
    assert "no warm-up" in text


def test_the_header_counts_processes():
    facts = dataclasses.replace(FACTS, world_size=4, accumulation=2)
    text = unfolded(rendered(run_header(facts)))
    assert "768imagesastep,in2forwardpassesof96oneachof4processes" in text


def test_names_from_disk_cannot_reach_the_terminal_as_codes():
    facts = dataclasses.replace(FACTS, class_names=[HOSTILE], dataset=HOSTILE)
    text = rendered(run_header(facts), terminal=True)
    assert "\x1b[31m" not in text
    assert "\x07" not in text
    assert "\\x1b[31mred\\x07 [bold]tag[/bold] :smile: \\udcff\\nnext" in text


def test_the_result_says_every_figure():
    text = rendered(SCREENS["result"])
    for figure in (
        "91.23 (Wilson 95% interval 90.66 to 91.78)",
        "99.81",
        "91.11",
        "0.2987",
        "10,000 test images",
        "99.10 (DeiT-B, Table 6)",
        "91.01",
        "91.12",
        "95.44",
        "93.21% of predictions",
        "raw / EMA on test | 91.50 / 91.60, last epoch",
        "averaged weights (EMA)",
        "9 of 10",
        "450,000 in 10 epochs",
        "20m34s, 365 images/s",
    ):
        assert figure in text


def test_a_plain_result_shows_no_heads_and_nothing_unknown():
    plain = {"model": "m", "dataset": "d", "top1": 50.0, "heads": {"class": 50.0}}
    plain |= dict.fromkeys(["seed", "weights", "epochs", "images_seen", "pretrained", "seconds"])
    text = rendered(result_table(plain))
    assert "50.00" in text
    for absent in ("head", "teacher", "paper", "selected", "None", "nan"):
        assert absent not in text


def test_the_comparison_shows_each_arm_and_the_difference():
    found = comparison(rates=(0.4, 0.9, 0.92))
    text = rendered(comparison_table(found))
    arm = found["arms"][1]
    half = (arm["top1_ci95"][1] - arm["top1_ci95"][0]) / 2
    assert f"{arm['top1_mean']:.1f} +- {half:.1f}" in text
    assert "3 seeds" in text
    assert "1.00G" in text
    assert "59m59s" in text
    joined = unfolded(text)
    assert unfolded(f"finetune - scratch: {found['delta']:+.2f} points of top-1") in joined
    assert "(pairedttestoverseeds,n=3)" in joined
    assert "finetune:1of3runsreused" in joined
    assert "scratchsaw2222.2timestheimages" in joined
    assert "5,000trainingimages" in joined
    assert "paper:DeiTB,Table6" in joined


def test_the_comparison_of_one_seed_shows_wilsons_ends():
    found = comparison(seeds=1)
    low, high = found["arms"][0]["top1_ci95"]
    text = rendered(comparison_table(found))
    assert f"[{low:.1f}, {high:.1f}]" in text
    assert "test images" in text


def test_the_paper_has_a_column_only_where_it_has_a_figure():
    assert "97.5" in rendered(comparison_table(comparison()))
    assert "paper" not in rendered(comparison_table(comparison(paper=None)))


@pytest.mark.parametrize(("num_classes", "shown"), [(5, False), (6, True), (None, True)])
def test_top_5_has_a_place_only_where_it_says_something(num_classes, shown):
    found = comparison() | {"num_classes": num_classes}
    screens = [result_table(RESULT | {"num_classes": num_classes}), comparison_table(found)]
    for screen in screens:
        assert ("top-5" in rendered(screen)) == shown
    assert ("99.81" in rendered(screens[0])) == shown
    assert comparison_markdown(found).count("| top-5 |") == (2 if shown else 0)


def test_a_clear_gain_is_called_one():
    found = comparison()
    assert re.match(r"Starting from imagenet .* bought \d+\.\d points", verdict(found))


def test_a_clear_loss_is_called_one():
    found = comparison(rates=(0.91, 0.41))
    low, high = (abs(end) for end in found["delta_ci95"])
    assert "cost" in verdict(found)
    assert f"{min(low, high):.1f} to {max(low, high):.1f}" in verdict(found)


def test_noise_is_not_called_a_gain():
    text = verdict(comparison(rates=(0.9, 0.905)))
    assert "chance" in text
    assert "bought" not in text


def test_one_seed_is_not_called_sure():
    text = verdict(comparison(seeds=1))
    assert "another seed may give another result" in text


def test_the_check_names_problems_and_counts_them():
    text = rendered(LISTINGS["check"])
    assert text.count("problem: ") == 20
    assert "and 10 more of this kind" in text
    assert "30 problems, 1 warning." in text
    clean = check_table({"dataset": "d", "counts": {"train": 2}, "class_names": ["a", "b"]})
    assert "Ready to train on." in rendered(clean)


def test_the_load_report_names_what_was_not_copied():
    text = rendered(LISTINGS["load report"])
    assert "150" in text
    assert "and 147" in text
    assert "99.61" in text
    assert "pos_embed (14x14 to 24x24)" in text
    assert "head_dist.weight (1000 classes)" in text


def test_all_recipes_show_what_is_known_of_them():
    text = rendered(LISTINGS["recipes"])
    assert "paper/finetune/inaturalist2018" in text
    assert LONG_NAME in text
    assert "720.5 min" in text
    paper = recipe_table([{"name": "n", "title": "t", "model": "m", "paper": "99.1 (Table 6)"}])
    assert "paper: 99.1 (Table 6)" in rendered(paper)


def test_datasets_say_how_to_come_by_them():
    row = {"name": "n", "title": "t", "num_classes": 2, "counts": {}, "license": "", "found": None}
    for access, said in (("embedded", "built in"), ("download", "downloads"), ("by hand", "hand")):
        assert said in rendered(dataset_table([{**row, "access": access}]))
    assert "/data/n" in rendered(dataset_table([{**row, "access": "download", "found": "/data/n"}]))


def test_a_run_without_a_result_is_listed_without_holes():
    text = rendered(LISTINGS["runs"])
    assert re.search(r"\| x +\| +- \| +- \| failed", text)
    assert "None" not in text
    assert "no runs" in rendered(runs_table([]))


def test_recipes_that_agree_are_said_to():
    text = rendered(difference_table([], first="a/b", second="c/d"))
    assert text.strip() == "a/b and c/d differ in no setting."
    assert "None" not in rendered(LISTINGS["settings"])


def test_a_run_is_shown_with_all_that_is_known():
    text = "".join(rendered(screen) for screen in run_screens(RUN_FACTS))
    for fact in (
        "done, 2025-01-01",
        "91.23",
        "50/50",
        "11/50",
        "pos_embed",
        "torch 2.15.0",
        "a; b",
        "x 'a b'",
    ):
        assert fact in text
    assert "10 earlier epochs" in text
    assert " 10/50" not in text
    assert "None" not in text
    bare = run_screens({"run": "r", "status": {}, "result": {}, "epochs": [], "pretrained": {}})
    assert "unknown" in "".join(rendered(screen) for screen in bare)


def test_tables_and_statistics_load_without_heavy_modules():
    program = (
        "import sys, deit_transfer.report.result, deit_transfer.report.comparison_plots, "
        "deit_transfer.report.comparison_markdown, deit_transfer.paper.values, "
        "deit_transfer.analysis.comparison;"
        "heavy = {'torch', 'matplotlib', 'scipy', 'sklearn', 'timm'} & set(sys.modules);"
        "sys.exit(', '.join(sorted(heavy)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
