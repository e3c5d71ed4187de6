"""Files of a report: curves as a PNG, a page in Markdown, each whole or not there."""

import errno
import os
from pathlib import Path

import numpy as np
import pytest

from deit_transfer.analysis.comparison import ArmRuns, build_comparison
from deit_transfer.errors import ResourceError
from deit_transfer.files import write_bytes_atomic, write_text_atomic
from deit_transfer.report.comparison_markdown import comparison_markdown
from deit_transfer.report.comparison_plots import Series, curves_png


def series(arm: str, seed: int, top1: list[float | None], *, images: int = 100) -> Series:
    epochs = [*range(1, len(top1) + 1)]
    return Series(
        label=f"{arm} {seed}",
        arm=arm,
        seed=seed,
        epochs=epochs,
        images_seen=[images * epoch for epoch in epochs],
        val_top1=top1,
        train_loss=[2.0 / epoch for epoch in epochs],
        test_top1=top1[-1] if top1 else None,
    )


def pixels(path: Path) -> np.ndarray:
    from PIL import Image

    with Image.open(path) as image:
        return np.asarray(image.convert("RGB")).astype(int)


def share_of(image: np.ndarray, color: tuple[int, int, int]) -> float:
    return float((np.abs(image - np.array(color)).max(-1) < 12).mean())


SCRATCH, FINETUNE, DISTILL = (0xD5, 0x5E, 0x00), (0x00, 0x72, 0xB2), (0x00, 0x9E, 0x73)


def test_curves_show_both_arms_and_the_papers_line(tmp_path):
    path = tmp_path / "curves.png"
    runs = [series("scratch", s, [20, 30, 35 + s]) for s in range(3)]
    runs += [series("finetune", s, [70, 80, 85 + s]) for s in range(3)]
    curves_png(path, runs, title="$cifar_10$ フグ")
    image = pixels(path)
    assert image.shape[1] >= 1200
    assert share_of(image, SCRATCH) > 0.001
    assert share_of(image, FINETUNE) > 0.001
    assert share_of(image, DISTILL) == 0
    curves_png(path, runs, paper_top1={"distill": 99.0})
    assert share_of(pixels(path), DISTILL) > 0.0005
    assert [p.name for p in tmp_path.iterdir()] == ["curves.png"]


@pytest.mark.parametrize(
    "runs",
    [
        [series("finetune", 0, [50.0])],
        [series("finetune", 0, [None, None])],
        [series("finetune", 0, [50.0, None, 60.0]), series("finetune", 1, [float("nan"), 55.0])],
        [series("finetune", 0, [50.0]), series("finetune", 1, [None, 55.0, 57.0])],
        [series("finetune", 0, [80.0]), series("scratch", 0, [10.0] * 40)],
        [series(f"arm {i}", 0, [10.0 * i, 12.0 * i]) for i in range(7)],
        [series("finetune", 0, [])],
    ],
    ids=["one point", "no scores", "gaps", "nothing shared", "log axis", "seven arms", "empty"],
)
def test_curves_draw_what_there_is(tmp_path, runs):
    curves_png(tmp_path / "curves.png", runs)
    assert pixels(tmp_path / "curves.png").std() > 1


def test_curves_of_nothing_are_refused(tmp_path):
    with pytest.raises(ValueError, match="at least one series"):
        curves_png(tmp_path / "curves.png", [])


def comparison(label: str = "a subset") -> dict:
    arms = []
    for arm, right in (("scratch", 40), ("finetune", 90)):
        correct = [np.arange(100) < right + seed * (1 + right // 50) for seed in range(3)]
        results = [
            {
                "run": f"runs/{arm}_{seed}",
                "seed": seed,
                "top1": 100 * array.mean(),
                "top5": 99.0,
                "mean_per_class": 80.0,
                "loss": 0.5,
                "images_seen": 1000,
                "seconds": 60.0,
                "images_per_second": 16.7,
            }
            for seed, array in enumerate(correct)
        ]
        arms.append(ArmRuns(arm=arm, results=results, correct=correct, paper_top1=99.1))
    return build_comparison(
        arms=arms,
        dataset="my|photos",
        model="deit_micro",
        start="imagenet",
        budget="recipe",
        labels=[label],
    )


def test_the_page_answers_first_and_holds_every_run():
    found = comparison(label="few <b>labels</b>")
    page = comparison_markdown(
        found,
        command="deit-transfer compare my-photos --seeds 3",
        figure="curves.png",
        recipes={"scratch": "scratch/folder"},
        environment={"torch": "2.15.0"},
    )
    lines = page.splitlines()
    assert lines[0] == "# What does pretraining buy? my\\|photos, deit\\_micro"
    assert lines[2].startswith("**Starting from imagenet instead of from scratch bought ")
    assert "![Validation top-1 and training loss by images seen](<curves.png>)" in lines
    assert "```sh\ndeit-transfer compare my-photos --seeds 3\n```" in page
    assert "- few \\<b\\>labels\\</b\\>" in lines
    assert "- recipe of scratch: scratch/folder" in lines
    assert "- torch: 2.15.0" in lines
    for seed in range(3):
        assert f"runs/finetune\\_{seed}" in page
    assert "None" not in page
    assert page.endswith("\n")


def test_every_row_of_the_page_has_the_cells_of_its_title():
    import re

    page = comparison_markdown(comparison())
    tables = [t.splitlines() for t in page.split("\n\n") if t.startswith("|")]
    assert len(tables) == 2
    for table in tables:
        assert len({len(re.findall(r"(?<!\\)\|", row)) for row in table}) == 1
    assert [len(table) for table in tables] == [2 + 2, 2 + 6]


def test_a_page_without_extras_has_no_empty_section():
    page = comparison_markdown(comparison())
    assert "![" not in page
    assert "```" not in page


def test_writing_replaces_the_file_whole(tmp_path):
    path = tmp_path / "report.md"
    write_text_atomic(path, "first, much longer than the second")
    write_text_atomic(path, "second: フグ \udcff")
    assert path.read_bytes() == "second: フグ \\udcff".encode()
    assert [p.name for p in tmp_path.iterdir()] == ["report.md"]


def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "report.md"
    write_text_atomic(path, "old")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ResourceError, match=r"report\.md") as caught:
        write_text_atomic(path, "new")
    assert caught.value.hint
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["report.md"]


def test_a_missing_folder_is_named_as_such(tmp_path):
    with pytest.raises(ResourceError, match=r"absent/report\.md: No such file or directory"):
        write_text_atomic(tmp_path / "absent" / "report.md", "text")


def test_a_planted_link_is_not_followed(tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("safe")
    (tmp_path / f".curves.png.{os.getpid()}.tmp").symlink_to(victim)
    write_bytes_atomic(tmp_path / "curves.png", b"png")
    assert victim.read_text() == "safe"
    assert not (tmp_path / "curves.png").is_symlink()


def test_a_figure_makes_its_folder_or_says_that_it_cannot(tmp_path):
    curves_png(tmp_path / "new" / "folder" / "curves.png", [series("scratch", 0, [10.0, 20.0])])
    assert (tmp_path / "new" / "folder" / "curves.png").stat().st_size > 0
    (tmp_path / "file").write_text("")
    with pytest.raises(ResourceError, match=r"cannot write .*file/curves\.png"):
        curves_png(tmp_path / "file" / "curves.png", [series("scratch", 0, [10.0])])
