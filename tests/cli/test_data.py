"""`data prepare` and `data preview`: what they print, draw and end with."""

import json

import numpy as np
from PIL import Image
from typer.testing import CliRunner

from deit_transfer.cli.app import app
from deit_transfer.errors import DataError
from deit_transfer.report.preview_grid import PreviewCell, preview_png
from deit_transfer.training.preview import preview

MICRO = {"model.name": "deit_micro", "model.resolution": 32}


def run(*arguments):
    return CliRunner().invoke(app, ["data", *map(str, arguments)])


def test_prepare_shows_what_lies_here():
    result = run("prepare", "digits", "--json")
    assert result.exit_code == 0
    facts = json.loads(result.stdout)
    assert facts["counts"] == {"train": 1438, "test": 359}
    assert "Ready to train on." in run("prepare", "digits").stdout


def test_prepare_of_what_must_be_placed_by_hand_ends_in_the_steps(tmp_path):
    result = run("prepare", "cars", "--data-dir", tmp_path)
    assert isinstance(result.exception, DataError)
    assert result.exception.hint.endswith("data check cars --data-dir FOLDER")


def test_preview_draws_each_image_beside_its_views(image_folder, tmp_path):
    path = tmp_path / "grid.png"
    assignments = [f"{key}={value}" for key, value in MICRO.items()]
    flags = [part for text in assignments for part in ("--set", text)]
    result = run(
        "preview", image_folder(), "--out", path, "--images", 3, "--json", *flags
    )  # fmt: skip
    assert result.exit_code == 0, result.exception
    facts = json.loads(result.stdout)
    assert facts["recipe"] == "finetune/folder"
    assert facts["resolution"] == 32
    assert len(set(facts["images"])) == 3
    assert {name.split("/")[1] for name in facts["images"]} == {"cat", "dog", "owl"}
    with Image.open(path) as grid:
        assert grid.width > 900
        assert grid.height > 500


def test_preview_is_the_same_again_and_shows_the_recipes_pipeline(image_folder, tmp_path):
    folder = str(image_folder())
    plain = {**MICRO, "augment.policy": "none", "augment.hflip": 0.0, "augment.crop_scale_min": 1.0}
    for name, overrides in (("a", MICRO), ("b", MICRO), ("c", plain)):
        preview(folder, path=tmp_path / f"{name}.png", num_images=2, overrides=overrides)
    first, second, other = ((tmp_path / f"{name}.png").read_bytes() for name in "abc")
    assert first == second
    assert first != other


def test_long_and_odd_labels_do_not_break_the_grid(tmp_path):
    pixels = np.zeros((3, 700, 3), np.uint8)
    cells = [PreviewCell(pixels, "$x_1^2$ " * 20), PreviewCell(pixels, "\u82b1 100%")]
    preview_png(tmp_path / "x.png", [cells], columns=["a", "b_c$"], title="t" * 300)
    with Image.open(tmp_path / "x.png") as grid:
        assert grid.format == "PNG"
