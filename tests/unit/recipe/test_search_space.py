"""What a search may vary: read from the command line, every fault found at once."""

from pathlib import Path

import pytest

from deit_transfer.errors import RecipeError
from deit_transfer.recipe.search_space import (
    Choices,
    Range,
    describe_point,
    grid_points,
    match_recipes,
    read_space,
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("optim.peak_lr=5e-4,3e-4,5e-5", (5e-4, 3e-4, 5e-5)),
        ("augment.repeats=1,3", (1, 3)),
        ("augment.policy=none,randaugment", ("none", "randaugment")),
        ("optim.ema=true,false", (True, False)),
        ("optim.betas=[0.9, 0.999],[0.9, 0.95]", ([0.9, 0.999], [0.9, 0.95])),
        ("model.freeze=none,last-2,head", ("none", "last-2", "head")),
        (" optim.name = sgd ", ("sgd",)),
    ],
)
def test_choices_are_read_as_toml_and_else_as_text(text: str, expected: tuple[object, ...]) -> None:
    dimensions, faults = read_space([text])
    assert faults == []
    assert dimensions == [Choices(text.partition("=")[0].strip(), expected)]


@pytest.mark.parametrize(
    ("text", "expected", "whole"),
    [
        ("optim.peak_lr=1e-5..1e-3:log", Range("optim.peak_lr", 1e-5, 1e-3, True), False),
        ("model.drop_path=0.0..0.3", Range("model.drop_path", 0.0, 0.3, False), False),
        ("augment.repeats=1..4", Range("augment.repeats", 1, 4, False), True),
    ],
)
def test_ranges_are_read_with_both_ends(text: str, expected: Range, whole: bool) -> None:
    assert read_space([], [text]) == ([expected], [])
    assert expected.is_whole is whole


def test_everything_that_is_wrong_is_found_at_once() -> None:
    dimensions, faults = read_space(
        [
            "optim.peak=1",
            "data.fraction=0.1,0.5",
            "optim.weight_decay=0.1,0.1",
            "augment.mixup",
            "optim.eps=1e-8,1e-6",
            "augment.cutmix=0,1",
        ],
        [
            "optim.eps=1e-8..1e-6",
            "optim.momentum=a..b",
            "model.drop_path=0.3..0.1",
            "optim.layer_decay=0..1:log",
            "optim.peak_lr=1e-3",
        ],
        given={"augment.cutmix"},
    )
    assert dimensions == []
    expected = [
        "optim.weight_decay: 0.1 is given twice",
        "--grid 'augment.mixup'",
        "optim.momentum: a range needs two numbers",
        "model.drop_path: 0.3 is not below 0.1",
        "optim.layer_decay: a range with :log must lie above 0",
        "--space 'optim.peak_lr=1e-3'",
        "optim.peak: no such setting. Did you mean",
        "data.fraction: cannot be varied",
        "optim.eps: varied twice",
        "augment.cutmix: both varied and set",
    ]
    assert len(faults) == len(expected)
    for start, fault in zip(expected, faults, strict=True):
        assert fault.startswith(start)


def test_a_grid_is_every_combination_and_a_range_gives_its_ends() -> None:
    points = grid_points([Choices("a.x", (1, 2)), Range("b.y", 0.5, 2.0, False)])
    assert points == [
        {"a.x": 1, "b.y": 0.5},
        {"a.x": 1, "b.y": 2.0},
        {"a.x": 2, "b.y": 0.5},
        {"a.x": 2, "b.y": 2.0},
    ]
    assert describe_point(points[0]) == "a.x=1 b.y=0.5"


def test_patterns_mean_shipped_recipes_and_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    own = tmp_path / "mine"
    own.mkdir()
    for name in ("b.toml", "a.toml", "notes.txt"):
        (own / name).write_text("")
    assert match_recipes(["mine/*"]) == ["mine/a.toml", "mine/b.toml"]
    shipped = match_recipes(["recipes/ablation/no_m*.toml"])
    assert shipped == ["ablation/no_mixup", "ablation/no_mixup_no_cutmix"]
    assert match_recipes(["ablation/default", "ablation/d*"]) == [
        "ablation/default",
        "ablation/dropout",
    ]
    with pytest.raises(RecipeError, match="ablation/no_mixxup: no such recipe") as caught:
        match_recipes(["ablation/no_mixxup", "mine/c*"])
    assert len(caught.value.faults) == 2
