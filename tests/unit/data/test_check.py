"""The check finds each planted fault, and says nothing of a sound dataset."""

import json
import shutil
from dataclasses import asdict, replace

import numpy as np
import pytest
from PIL import Image

from deit_transfer.data.adapters.folder import FolderAdapter
from deit_transfer.data.check import check_dataset
from deit_transfer.data.dataset import Dataset, DatasetInfo, ImageSet


def write(path, seed, size=(6, 5), mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)
    Image.fromarray(noise).convert(mode).save(path)


@pytest.fixture
def folder(tmp_path):
    seed = 0
    for split, count in (("train", 6), ("test", 5)):
        for name in ("cat", "dog"):
            for i in range(count):
                seed += 1
                write(tmp_path / split / name / f"{i}.png", seed)
    return tmp_path


def check(folder, **options):
    return check_dataset(FolderAdapter().load(folder), **options)


def test_a_sound_dataset_has_no_faults(folder):
    calls = []
    report = check(folder, progress=lambda done, total: calls.append((done, total)))
    assert report.problems == []
    assert report.warnings == []
    assert report.counts == {"train": 12, "test": 10}
    assert report.per_class["train"] == {"cat": 6, "dog": 6}
    facts = dict(report.facts)
    assert facts["formats"] == "PNG RGB 22"
    assert facts["sizes"] == "5 x 6"
    assert facts["balance"] == "6 images in each class"
    assert calls[-1] == (22, 22)
    json.dumps(asdict(report))


def test_every_unreadable_image_is_a_problem(folder):
    bad = [folder / "train" / "cat" / "0.png", folder / "test" / "dog" / "1.png"]
    bad[0].write_bytes(b"")
    bad[1].write_bytes(bad[1].read_bytes()[:70])
    report = check(folder)
    assert len(report.problems) == 2
    assert [problem.split(": ")[0] for problem in report.problems] == [
        f"cannot decode {path}" for path in bad
    ]
    assert {(bad.split, bad.image) for bad in report.unreadable} == {
        ("train", str(bad[0])),
        ("test", str(bad[1])),
    }
    assert "0 bytes" in report.unreadable[0].reason


def test_a_file_that_vanishes_is_a_problem(folder):
    dataset = FolderAdapter().load(folder)
    (folder / "train" / "cat" / "3.png").unlink()
    (problem,) = check_dataset(dataset).problems
    assert "3.png" in problem


def test_copies_of_training_images_in_test_are_a_problem(folder):
    shutil.copy(folder / "train" / "cat" / "2.png", folder / "test" / "cat" / "2.png")
    report = check(folder)
    (problem,) = report.problems
    assert problem.startswith("1 of 10 test images (10.00%) are also in train")
    assert "train: train/cat/2.png = test: test/cat/2.png" in problem
    assert report.copies[0].splits == ["test", "train"]


def test_few_copies_and_copies_within_a_split_only_warn(folder):
    for i in range(200):
        write(folder / "test" / "cat" / f"more{i}.png", 1000 + i)
        write(folder / "test" / "dog" / f"more{i}.png", 2000 + i)
    shutil.copy(folder / "train" / "cat" / "2.png", folder / "test" / "cat" / "2.png")
    shutil.copy(folder / "train" / "dog" / "0.png", folder / "train" / "dog" / "1.png")
    report = check(folder)
    assert report.problems == []
    (warning,) = report.warnings
    assert "1 of 410 test images (0.24%)" in warning
    assert dict(report.facts)["copies"] == "2 images occur more than once"


def test_one_image_under_two_classes_warns(folder):
    shutil.copy(folder / "train" / "cat" / "2.png", folder / "train" / "dog" / "2.png")
    (warning,) = check(folder).warnings
    assert "several classes" in warning
    assert "cat and dog" in warning


def test_unbalanced_and_small_classes_warn(folder):
    for i in range(60):
        write(folder / "train" / "cat" / f"more{i}.png", 1000 + i)
    for i in range(2):
        (folder / "test" / "dog" / f"{i}.png").unlink()
    warnings = " ".join(check(folder).warnings)
    assert "66 cat to 6 dog" in warnings
    assert "fewer than 5 test images in 1 class: dog" in warnings


def test_classes_and_labels_are_compared(folder):
    shutil.rmtree(folder / "test" / "dog")
    assert "test has no image of 1 class: dog" in check(folder).warnings
    pixels = np.arange(4, dtype=np.uint8)[:, None, None, None].repeat(3, axis=3)
    images = ImageSet.from_arrays(pixels, np.array([0, 0, 2, 5]), ids=["a", "b", "c", "c"])
    info = DatasetInfo(
        name="x", title="X", num_classes=3, counts={"train": 9}, license="", source=""
    )
    dataset = Dataset(info=info, class_names=("u", "v", "w"), splits={"train": images})
    problems = " ".join(check_dataset(dataset).problems)
    for fault in ("labels outside 0..2", "names some images twice", "expected {'train': 9}"):
        assert fault in problems
    assert "train has no image of 1 class: v" in problems
    empty = replace(dataset, splits={"train": images.subset([])})
    assert "train is empty" in check_dataset(empty).problems


def test_what_decoding_did_is_noted(folder):
    write(folder / "train" / "cat" / "0.png", 0, size=(9, 30), mode="RGBA")
    Image.fromarray(np.full((2, 2), 40_000, np.uint16)).save(folder / "train" / "cat" / "1.png")
    report = check(folder)
    assert "1 image: transparency laid on white" in report.notes
    assert "1 image: more than 8 bits a channel scaled to 8" in report.notes
    assert dict(report.facts)["sizes"] == "from 2 x 2 to 30 x 9, median 5 x 6 pixels"
    assert "PNG RGBA 1" in dict(report.facts)["formats"]


def test_processes_find_the_same(folder):
    (folder / "test" / "dog" / "1.png").write_bytes(b"<html>")
    assert check(folder, workers=2) == check(folder, workers=0)
