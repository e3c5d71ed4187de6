"""Published datasets and addresses, in every layout seen in the wild, keep the same promises."""

import json
import os
import pickle
from functools import partial

import numpy as np
import pytest
from miniatures import (
    CAR_TEST,
    CAR_TRAIN,
    FLOWER_LABELS,
    FLOWER_SPLIT,
    INAT_TRAIN,
    INAT_VAL,
    REAL_ANSWERS,
    SYNSETS,
    VAL_SYNSETS,
    cars,
    cars_by_class,
    cars_one_file,
    flowers,
    hub_folder,
    imagenet,
    imagenet_devkit,
    imagenet_real,
    imagenet_tars,
    imagenet_v2,
    inat,
    jpeg,
    shard_address,
    table,
    val_name,
    write,
)

from deit_transfer.data.catalog import load_dataset
from deit_transfer.data.check import check_dataset
from deit_transfer.data.dataset import Options
from deit_transfer.data.fingerprint import fingerprint, label_fingerprint
from deit_transfer.data.pipeline.decode import read_rgb


def flat_with_devkit(root):
    imagenet_devkit(root)
    return imagenet(root, val="flat")


def flat_with_solution(root):
    """Kaggle's copy: the solution file lies above Data/CLS-LOC."""
    lines = ["ImageId,PredictionString"]
    for number, label in enumerate(VAL_SYNSETS, start=1):
        box = f"{SYNSETS[label]} 85 1 499 272 "
        lines.append(f"ILSVRC2012_val_{number:08d},{box * (1 + number % 2)}")
    write(root / "LOC_val_solution.csv", "\n".join(lines) + "\n")
    return imagenet(root / "ILSVRC" / "Data" / "CLS-LOC", val="flat")


LAYOUTS = {
    "flowers102": flowers,
    "flowers102 without its folder": partial(flowers, folder="."),
    "cars": cars,
    "cars, labels in devkit": partial(cars, labeled="devkit", folder="."),
    "cars, one mirror's nested folders": partial(cars, nested=True),
    "cars, one annotation file": cars_one_file,
    "cars by class": cars_by_class,
    "inat2018": inat,
    "inat2018 flattened": partial(inat, flat=True),
    "inat2018 without names": partial(inat, names=False),
    "inat2019": partial(inat, year="2019"),
    "imagenet": imagenet,
    "imagenet, flat val with devkit": flat_with_devkit,
    "imagenet, flat val with solution": flat_with_solution,
    "imagenet tars": imagenet_tars,
    "imagenet-v2": imagenet_v2,
    "imagenet-v2 by WordNet id": lambda root: imagenet_v2(
        root, names=[f"n{10_000_000 + label:08d}" for label in range(12)]
    ),
    "imagenet-real": imagenet_real,
    "imagenet-real in folders": partial(imagenet_real, flat=False),
    "hub folder": hub_folder,
    "tar shards": shard_address,
    "table": table,
}


def load(made, root):
    """Load what a writer returned: an adapter that finds its files, or an address."""
    return load_dataset(made) if isinstance(made, str) else made.load(made.find(root))


@pytest.fixture(params=LAYOUTS)
def loaded(request, tmp_path):
    made = LAYOUTS[request.param](tmp_path)
    return load(made, tmp_path), made, tmp_path


def test_labels_names_and_counts_agree(loaded):
    dataset, *_ = loaded
    assert "test" in dataset.splits
    assert len(set(dataset.class_names)) == dataset.num_classes == dataset.info.num_classes
    assert {split: len(images) for split, images in dataset.splits.items()} == dataset.info.counts
    for images in dataset.splits.values():
        assert images.labels.dtype == np.int64
        assert 0 <= images.labels.min() <= images.labels.max() < dataset.num_classes
        assert len(set(images.ids)) == len(images)
    assert dataset.layout
    assert len(dataset.groups) in (0, dataset.num_classes)


def test_splits_are_disjoint(loaded):
    dataset, *_ = loaded
    places = [images.where(i) for images in dataset.splits.values() for i in range(len(images))]
    assert len(set(places)) == len(places)


def test_images_decode_and_subsets_follow(loaded):
    dataset, *_ = loaded
    images = dataset.splits["test"]
    picked = images.subset([len(images) - 1, 0])
    for index, original in ((0, len(images) - 1), (1, 0)):
        np.testing.assert_array_equal(read_rgb(picked, index), read_rgb(images, original))
        assert picked.size(index) == len(images.read(original))
        assert picked.ids[index] == images.ids[original]
        assert picked.labels[index] == images.labels[original]
        assert os.path.basename(images.ids[original]).split(".")[0] in images.where(original)
    assert images.apply_exif == dataset.info.apply_exif


def test_loading_again_and_pickling_change_nothing(loaded):
    dataset, made, root = loaded
    before = fingerprint(dataset.splits, dataset.class_names)
    again = load(made, root)  # from the indexes kept in the cache, where there are some
    assert fingerprint(again.splits, again.class_names) == before
    copied = pickle.loads(pickle.dumps(dataset))
    assert fingerprint(copied.splits, copied.class_names) == before


def test_the_check_finds_nothing(loaded):
    report = check_dataset(loaded[0], workers=0)
    assert [text for text in report.problems if "has no image of" not in text] == []
    json.dumps(report.layout)


def test_a_folder_in_a_published_format_is_called_by_its_name(tmp_path, monkeypatch):
    """Naming the folder alone, as one does with one's own images, points to the dataset."""
    from deit_transfer.data import catalog
    from deit_transfer.errors import DataError

    for number, write_files in enumerate((flowers, cars, inat, imagenet, imagenet_v2)):
        root = tmp_path / str(number)
        adapter = write_files(root)
        known = {**catalog._adapters(), adapter.info.name: adapter}
        monkeypatch.setattr(catalog, "_adapters", lambda known=known: known)
        with pytest.raises(DataError, match="in its own format") as caught:
            load_dataset(str(root))
        assert caught.value.hint.endswith(f"{adapter.info.name} --data-dir {root}")


# What the labels must be, written out a second time.


def test_flowers_go_by_the_split_file(tmp_path):
    dataset = flowers(tmp_path).load(tmp_path / "flowers-102")
    for split, key in (("train", "trnid"), ("val", "valid"), ("test", "tstid")):
        images = dataset.splits[split]
        assert list(images.ids) == [f"image_{n:05d}.jpg" for n in sorted(FLOWER_SPLIT[key])]
        assert images.labels.tolist() == [
            FLOWER_LABELS[n - 1] - 1 for n in sorted(FLOWER_SPLIT[key])
        ]
        assert images.read(0) == jpeg(f"flower {min(FLOWER_SPLIT[key])}")


@pytest.mark.parametrize("layout", [name for name in LAYOUTS if name.startswith("cars")])
def test_cars_are_labeled_alike_in_every_layout(tmp_path, layout):
    adapter = LAYOUTS[layout](tmp_path)
    dataset = adapter.load(adapter.find(tmp_path))
    for split, classes in (("train", CAR_TRAIN), ("test", CAR_TEST)):
        found = {}
        for index in range(len(classes)):
            name = os.path.basename(dataset.splits[split].ids[index])
            found[int(name.removesuffix(".jpg"))] = int(dataset.splits[split].labels[index])
        first = min(found)  # car_ims numbers the test images on from the training images
        expected = {first + i: label - 1 for i, label in enumerate(classes)}
        assert found == expected


def test_inat_classes_follow_the_category_ids(tmp_path):
    dataset = load(inat(tmp_path), tmp_path)
    assert dataset.splits["train"].labels.tolist() == INAT_TRAIN
    assert dataset.splits["test"].labels.tolist() == INAT_VAL
    assert dataset.class_names[2] == "Aix galericulata"
    assert dataset.groups == ("Aves", "Fungi", "Aves", "Aves")


def test_inat_without_names_says_so(tmp_path):
    dataset = load(inat(tmp_path, names=False), tmp_path)
    assert dataset.class_names == ("0", "1", "2", "3")
    assert any("obfuscated" in note for note in dataset.notes)


def test_inat_flattened_is_the_same_dataset(tmp_path):
    official = load(inat(tmp_path / "a"), tmp_path / "a")
    flat = load(inat(tmp_path / "b", flat=True), tmp_path / "b")
    assert official.layout != flat.layout
    assert fingerprint(official.splits, official.class_names) == fingerprint(
        flat.splits, flat.class_names
    )


def test_inat_groups_are_super_categories_also_where_only_the_tree_has_them(tmp_path):
    expected = ("Aves", "Fungi", "Aves", "Aves")
    first, second = inat(tmp_path / "a"), inat(tmp_path / "b", year="2019")
    assert load(first, tmp_path / "a").groups == expected
    assert load(second, tmp_path / "b").groups == expected  # its categories name kingdoms alone
    by_genus = load(second.configured(Options(rank="genus")), tmp_path / "b")
    assert dict(zip(by_genus.class_names, by_genus.groups, strict=True)) == {
        "Aix": "Aves", "Amanita": "Fungi", "Anas": "Aves"
    }  # fmt: skip


def test_inat_levels_and_the_reference_codes_order(tmp_path):
    adapter = inat(tmp_path)
    genus = load(adapter.configured(Options(rank="genus")), tmp_path)
    assert genus.class_names == ("Aix", "Amanita", "Anas")
    numbers = {0: 0, 1: 1, 2: 0, 3: 2}
    assert genus.splits["train"].labels.tolist() == [numbers[c] for c in INAT_TRAIN]
    assert genus.info.num_classes == 3
    deit = load(adapter.configured(Options(class_order="deit")), tmp_path)
    met = list(dict.fromkeys(INAT_TRAIN))  # 2, 1, 0, 3
    assert deit.splits["test"].labels.tolist() == [met.index(c) for c in INAT_VAL]
    assert deit.class_names[0] == "Aix galericulata"
    assert label_fingerprint(deit.splits, deit.class_names) != label_fingerprint(
        load(adapter, tmp_path).splits, load(adapter, tmp_path).class_names
    )


@pytest.mark.parametrize("layout", [n for n in LAYOUTS if n.startswith("imagenet")][:4])
def test_imagenet_is_labeled_alike_in_every_layout(tmp_path, layout):
    adapter = LAYOUTS[layout](tmp_path)
    dataset = adapter.load(adapter.find(tmp_path))
    assert dataset.class_names == SYNSETS
    train, test = dataset.splits["train"], dataset.splits["test"]
    for index, name in enumerate(train.ids):
        assert SYNSETS[train.labels[index]] == os.path.basename(name).split("_")[0]
        assert train.read(index) == jpeg(os.path.basename(name))
    assert len(test) == len(VAL_SYNSETS)
    for index, name in enumerate(test.ids):
        number = int(name[-13:-5])
        assert test.labels[index] == VAL_SYNSETS[number - 1]
        assert test.read(index) == jpeg(val_name(number))


def test_v2_folders_are_read_by_value_not_as_text(tmp_path):
    dataset = load(imagenet_v2(tmp_path), tmp_path)
    images = dataset.splits["test"]
    for index, name in enumerate(images.ids):
        folder, file = name.split("/")
        assert images.labels[index] == int(folder) == int(file.split("-")[0])
    assert "read by value: 0 is label 0" in dataset.notes[0]
    from_one = load(
        imagenet_v2(tmp_path / "b", names=[str(label + 1) for label in range(12)]), tmp_path / "b"
    )
    assert from_one.splits["test"].labels.tolist() == images.labels.tolist()


def test_real_is_joined_by_file_name_and_leaves_the_unlabeled_out(tmp_path):
    for flat in (True, False):
        root = tmp_path / str(flat)
        dataset = load(imagenet_real(root, flat=flat), root)
        images = dataset.splits["test"]
        scored = [i for i, answers in enumerate(REAL_ANSWERS, start=1) if answers]
        assert list(images.ids) == [val_name(number) for number in scored]
        right = images.label_sets.mask(4)
        for row, number in enumerate(scored):
            assert set(np.flatnonzero(right[row])) == set(REAL_ANSWERS[number - 1])
            assert images.labels[row] in REAL_ANSWERS[number - 1]
            assert images.read(row) == jpeg(val_name(number))
        assert "2 of 8 images have no label in ReaL" in dataset.notes[0]


def test_timms_lists_are_the_published_ones():
    """The whole label file, without images: 46,837 images are scored, with 57,553 labels."""
    from deit_transfer.data.adapters.imagenet import synsets
    from deit_transfer.data.readers.layout_checks import imagenet_file, shipped_names

    answers = json.loads(imagenet_file("imagenet_real_labels.json"))
    assert (len(answers), sum(map(bool, answers)), sum(map(len, answers))) == (
        50_000,
        46_837,
        57_553,
    )
    assert len(synsets()) == 1000
    assert list(synsets()) == sorted(synsets())
    assert len(set(shipped_names("flowers102"))) == 102
    assert len(set(shipped_names("cars"))) == 196
