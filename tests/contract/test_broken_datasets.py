"""What is wrong with a published dataset's files is told at once, and what to type next."""

import io
import json
import os
import tarfile
from dataclasses import replace

import numpy as np
import pytest
from miniatures import (
    CAR_NAMES,
    FLOWER_LABELS,
    FLOWER_SPLIT,
    SYNSETS,
    car_annotations,
    cars,
    cars_by_class,
    cars_one_file,
    flowers,
    imagenet,
    imagenet_devkit,
    imagenet_real,
    imagenet_tars,
    imagenet_v2,
    inat,
    inat_json,
    jpeg,
    val_name,
    write,
    write_tar,
)

from deit_transfer.data import catalog
from deit_transfer.data.adapters import imagenet_tests
from deit_transfer.data.adapters.inat import INAT2018, INAT2019
from deit_transfer.data.dataset import Options
from deit_transfer.data.fetch.download import checksum
from deit_transfer.errors import DataError, UsageError


def fault(call, *arguments, **options):
    """Return the message and the hint of the error that a call must end in."""
    with pytest.raises(DataError) as caught:
        call(*arguments, **options)
    assert caught.value.hint
    return caught.value.message, caught.value.hint


def load_fault(adapter, root):
    found = adapter.find(root)
    assert found is not None
    return fault(adapter.load, found)


def named(monkeypatch, adapter):
    """Let the catalog know a miniature under its dataset's name."""
    known = {**catalog._adapters(), adapter.info.name: adapter}
    monkeypatch.setattr(catalog, "_adapters", lambda: known)
    return adapter.info.name


# Trying the wrong thing first


def test_a_folder_above_or_below_the_right_one_is_answered_with_the_right_one(
    tmp_path, monkeypatch
):
    """As Flowers given the folder above: nothing is downloaded, the place is named."""
    for write_files in (flowers, cars, inat, imagenet):
        root = tmp_path / write_files.__name__
        adapter = write_files(root / "sets" / "here")
        name = named(monkeypatch, adapter)
        right = adapter.find(root / "sets" / "here")
        message, hint = fault(catalog.load_dataset, name, data_dir=root)
        assert f"but in {right}" in message
        assert hint.endswith(f"--data-dir {right}")
        assert fault(catalog.prepare_dataset, name, data_dir=root)[1] == hint
        inside = next(path for path in sorted(right.iterdir()) if path.is_dir())
        if adapter.find(inside) != right:  # the tree of iNaturalist is taken for its folder
            assert fault(catalog.load_dataset, name, data_dir=inside)[1] == hint
        assert (adapter.find(inside) == right) == (write_files is inat)


def test_cars_without_labeled_annotations(tmp_path):
    message, hint = load_fault(cars(tmp_path, labeled=None), tmp_path)
    assert "devkit/cars_test_annos.mat has no labels" in message
    assert "cars_test_annos_withlabels.mat has them" in message
    assert hint.endswith("deit-transfer data check cars --data-dir FOLDER")
    assert "deit-transfer finetune hf:tanganke/stanford_cars@9abf6cf" in hint


def test_inat_without_json(tmp_path):
    adapter = inat(tmp_path)
    for split in ("train", "val"):
        (tmp_path / f"{split}2018.json").unlink()
    message, hint = load_fault(adapter, tmp_path)
    assert "train2018.json is missing" in message
    assert "val2018.json is missing" in message
    assert hint.endswith(f"deit-transfer data prepare inat2018 --data-dir {tmp_path}")


def test_imagenet_with_a_flat_val(tmp_path):
    message, hint = load_fault(imagenet(tmp_path, val="flat"), tmp_path)
    assert "val/ holds images but no class folders" in message
    assert "ILSVRC2012_devkit_t12.tar.gz" in hint
    assert hint.endswith(f"deit-transfer data check imagenet --data-dir {tmp_path}")


def test_a_part_of_a_dataset_is_answered_with_its_name(tmp_path, offer):
    offer(flowers(tmp_path / "f"))
    offer(inat(tmp_path / "i"))
    for part, name in (("f/flowers-102/jpg", "flowers102"), ("i/train_val2018", "inat2018")):
        with pytest.raises(DataError) as caught:
            catalog.load_dataset(str(tmp_path / part))
        assert f"Name the dataset instead: {name} --data-dir " in caught.value.hint
    tree = tmp_path / "i" / "train_val2018"
    assert len(catalog.load_dataset("inat2018", data_dir=tree).splits["train"]) == 8


def test_names_spelled_otherwise_are_answered_with_the_right_ones():
    for address, answer in (("CIFAR10", "cifar10"), ("hf:cifar10", "hf:uoft-cs/cifar10")):
        with pytest.raises(UsageError) as caught:
            catalog.load_dataset(address)
        assert answer in f"{caught.value.message} {caught.value.hint}".split("Datasets:")[0]


def test_large_sets_are_never_downloaded_unasked(tmp_path, monkeypatch):
    monkeypatch.setenv("DEIT_TRANSFER_DATA", str(tmp_path))
    message, hint = fault(catalog.load_dataset, "inat2018")
    assert f"not found in {tmp_path}" in message
    assert hint.endswith(f"120 GB with: deit-transfer data prepare inat2018 --data-dir {tmp_path}")
    for name in ("cars", "imagenet", "imagenet-real"):
        message, hint = fault(catalog.prepare_dataset, name, data_dir=tmp_path)
        assert f"{name} was not found in {tmp_path}" in message
        assert hint.endswith(f"deit-transfer data check {name} --data-dir FOLDER")


def test_images_in_parquet_or_shards_are_named_by_address(tmp_path):
    for kind, prefix in (("parquet", "hf:"), ("tar", "wds:")):
        folder = tmp_path / kind
        write(folder / "data" / f"train.{kind}", b"")
        assert fault(catalog.load_dataset, str(folder))[1].endswith(f"{prefix}{folder}")
    assert (
        fault(catalog.load_dataset, "cifar10", data_dir=tmp_path / "parquet")[1].endswith(
            f"instead of cifar10: hf:{tmp_path / 'parquet'}"
        )
        or "hf:" in fault(catalog.load_dataset, "cifar10", data_dir=tmp_path / "parquet")[1]
    )


def test_options_are_for_the_datasets_that_offer_them(tmp_path):
    with pytest.raises(UsageError, match="digits has one kind of class"):
        catalog.load_dataset("digits", options=Options(rank="genus"))
    with pytest.raises(UsageError, match="one kind of class"):
        catalog.load_dataset(str(tmp_path), options=Options(class_order="deit"))
    with pytest.raises(UsageError, match="Did you mean genus"):
        INAT2018.configured(Options(rank="genera"))


# Flowers


def flower_faults(root, **changes):
    adapter = flowers(root, **changes)
    return load_fault(adapter, root)[0]


def test_flowers_missing_files_are_listed_together(tmp_path):
    import shutil

    adapter = flowers(tmp_path)
    (tmp_path / "flowers-102" / "setid.mat").unlink()
    shutil.rmtree(tmp_path / "flowers-102" / "jpg")
    message, hint = load_fault(adapter, tmp_path)
    assert "setid.mat is missing" in message
    assert "jpg/ is missing" in message
    assert hint.endswith(
        f"deit-transfer data prepare flowers102 --data-dir {tmp_path / 'flowers-102'}"
    )


def test_flowers_of_another_split_are_refused(tmp_path):
    train, test = FLOWER_SPLIT["trnid"], FLOWER_SPLIT["tstid"]
    message = flower_faults(tmp_path, split={**FLOWER_SPLIT, "trnid": test, "tstid": train})
    assert "train holds 6 images, expected 3" in message
    assert "test holds 3 images, expected 6" in message
    assert "have changed places" in message


def test_flowers_that_contradict_themselves(tmp_path):
    twice = {**FLOWER_SPLIT, "trnid": [6, 2, 1]}
    assert "exactly once" in flower_faults(tmp_path / "a", split=twice)
    labels = [*FLOWER_LABELS[:-1], 4]
    assert "labels outside 1..3" in flower_faults(tmp_path / "b", labels=labels)
    message = flower_faults(tmp_path / "c", images=9)
    assert "3 of 12 images in jpg/ are missing (image_00010.jpg" in message


def test_damaged_flowers_files(tmp_path):
    adapter = flowers(tmp_path)
    place = tmp_path / "flowers-102"
    (place / "setid.mat").write_bytes(b"MATLAB 5.0" + bytes(100))
    (place / "imagelabels.mat").write_bytes((place / "imagelabels.mat").read_bytes()[:150])
    message, _ = load_fault(adapter, tmp_path)
    assert "setid.mat: damaged" in message
    assert "imagelabels.mat: damaged" in message
    from scipy.io import savemat

    savemat(place / "setid.mat", {"trnid": [1]})
    assert "setid.mat: no 'valid' in it, only trnid" in load_fault(adapter, tmp_path)[0]


def test_flowers_are_completed_from_files_placed_by_hand(tmp_path):
    """No network: archive and MATLAB files lie there, are verified, and the archive unpacked."""
    made = flowers(tmp_path / "made")
    place = tmp_path / "data"
    place.mkdir()
    with tarfile.open(place / "102flowers.tgz", "w:gz") as archive:
        archive.add(tmp_path / "made" / "flowers-102" / "jpg", "jpg")
    for name in ("imagelabels.mat", "setid.mat"):
        os.rename(tmp_path / "made" / "flowers-102" / name, place / name)
    assert "is not the published" in fault(made.download, place)[0]
    adapter = replace(
        made,
        archive=replace(made.archive, checksum=checksum(place / "102flowers.tgz", "md5")),
        mat_files=tuple(
            replace(file, checksum=checksum(place / file.name, "md5")) for file in made.mat_files
        ),
    )
    assert adapter.download(place) == place
    assert adapter.load(adapter.find(place)).info.counts["train"] == 3


# Cars


def test_cars_annotations_of_the_competition_under_another_name(tmp_path):
    from scipy.io import savemat

    adapter = cars(tmp_path)
    place = tmp_path / "stanford_cars"
    names = [f"{i:05d}.jpg" for i in range(1, 5)]
    savemat(place / "cars_test_annos_withlabels.mat", car_annotations(names))
    assert "cars_test_annos_withlabels.mat has no labels" in load_fault(adapter, tmp_path)[0]


def test_cars_faults_are_listed_together(tmp_path):
    from scipy.io import savemat

    adapter = cars(tmp_path)
    place = tmp_path / "stanford_cars"
    (place / "cars_train" / "00002.jpg").unlink()
    names = [f"{i:05d}.jpg" for i in range(1, 4)]
    savemat(place / "cars_test_annos_withlabels.mat", car_annotations(names, [1, 2, 4]))
    message, _ = load_fault(adapter, tmp_path)
    assert "test holds 3 images, expected 4" in message
    assert "test has labels outside 1..3" in message
    assert "1 of 6 train images are missing (cars_train/00002.jpg)" in message


def test_cars_with_other_classes_or_damaged_annotations(tmp_path):
    from scipy.io import savemat

    adapter = cars(tmp_path)
    devkit = tmp_path / "stanford_cars" / "devkit"
    savemat(devkit / "cars_meta.mat", {"class_names": np.array(CAR_NAMES[:2], dtype=object)})
    (devkit / "cars_train_annos.mat").write_bytes(b"")
    message, _ = load_fault(adapter, tmp_path)
    assert "cars_meta.mat names 2 classes, expected 3" in message
    assert "cars_train_annos.mat: damaged" in message
    (devkit / "cars_train_annos.mat").unlink()
    assert "cars_train_annos.mat is missing" in load_fault(adapter, tmp_path)[0]


def test_cars_in_one_file_without_its_columns(tmp_path):
    from scipy.io import savemat

    adapter = cars_one_file(tmp_path)
    savemat(tmp_path / "cars_annos.mat", car_annotations(["1.jpg"], [1]))
    assert "no relative_im_path, test in its annotations" in load_fault(adapter, tmp_path)[0]


def test_cars_by_class_need_every_class(tmp_path):
    adapter = cars_by_class(tmp_path)
    os.rename(tmp_path / "test" / CAR_NAMES[2], tmp_path / "test" / "Volvo")
    message, _ = load_fault(adapter, tmp_path)
    assert "test/Volvo is no class of Stanford Cars" in message
    assert f"1 of 3 class folders of test/ are missing ({CAR_NAMES[2]})" in message


# iNaturalist


def inat_fault(adapter, root, split, change):
    """Return the message after a JSON file was changed by a function, or replaced by bytes."""
    path = root / f"{split}2018.json"
    before = path.read_bytes()
    if callable(change):
        content = json.loads(before)
        change(content)
        change = json.dumps(content).encode()
    path.write_bytes(change)
    message, _ = load_fault(adapter, root)
    path.write_bytes(before)
    return message


def test_inat_json_faults(tmp_path):
    adapter = inat(tmp_path)
    competition = inat_fault(adapter, tmp_path, "val", lambda c: c.pop("annotations"))
    assert "val2018.json: damaged or no annotations (KeyError: 'annotations')" in competition
    half = inat_fault(adapter, tmp_path, "val", lambda c: c["annotations"].pop())
    assert "1 of 4 images have no label" in half
    assert "train2018.json: damaged" in inat_fault(adapter, tmp_path, "train", b'{"images": [')
    assert "train2018.json: damaged" in inat_fault(adapter, tmp_path, "train", b"[1]")
    unknown = inat_fault(
        adapter, tmp_path, "train", lambda c: c["annotations"][0].update(category_id=77)
    )
    assert "categories that are not defined, such as 77" in unknown
    overlap = inat_json("2018", "train", [2, 1, 0, 2])
    same = inat_fault(adapter, tmp_path, "val", json.dumps(overlap).encode())
    assert "4 images are in both JSON files" in same
    short = inat_fault(adapter, tmp_path, "train", lambda c: c["images"].pop())
    assert "train holds 7 images, expected 8" in short


def test_of_other_inat_split_sizes_only_the_papers_are_taken(tmp_path):
    adapter = inat(tmp_path)
    published = replace(adapter.info, counts={"train": 9, "test": 3})  # of the same sum
    message, _ = load_fault(replace(adapter, info=published), tmp_path)
    assert "train holds 8 images, expected 9" in message
    papers = replace(adapter, info=published, other_counts={"train": 8, "test": 4})
    dataset = papers.load(tmp_path)
    assert any("are the paper's, not the published" in note for note in dataset.notes)
    assert dataset.info.counts == {"train": 8, "test": 4}
    assert INAT2019.info.counts == {"train": 265_213, "test": 3 * 1010}
    assert INAT2019.other_counts == {"train": 265_240, "test": 3_003}


def test_inat_unpacked_in_part(tmp_path):
    adapter = inat(tmp_path)
    (tmp_path / "train_val2018" / "Aves" / "2" / "train0.jpg").unlink()
    message, _ = load_fault(adapter, tmp_path)
    assert "1 of 8 train images are missing (train_val2018/Aves/2/train0.jpg)" in message


def test_inat_levels_that_a_year_lacks(tmp_path):
    adapter = inat(tmp_path, year="2019").configured(Options(rank="supercategory"))
    message, hint = load_fault(adapter, tmp_path)
    assert "the categories of inat2019 have no supercategory" in message
    assert hint.endswith("--rank kingdom")


def test_inat_archives_placed_by_hand_are_unpacked(tmp_path):
    adapter = inat(tmp_path / "made")
    place = tmp_path / "data" / "inat2018"
    place.mkdir(parents=True)
    names = ("train2018.json", "val2018.json", "categories.json", "train_val2018")
    md5 = {}
    for name in names:
        with tarfile.open(place / f"{name}.tar.gz", "w:gz") as archive:
            archive.add(tmp_path / "made" / name, name)
        md5[f"{name}.tar.gz"] = checksum(place / f"{name}.tar.gz", "md5")
    md5["categories.json.tar.gz"] = ""  # as published: without a checksum
    adapter = replace(adapter, md5=md5)
    assert adapter.download(tmp_path / "data") == place
    assert adapter.download(tmp_path / "data") == place
    dataset = adapter.load(adapter.find(tmp_path / "data"))
    assert dataset.class_names[0] == "Aix sponsa"


# ImageNet


def test_imagenet_unpacked_in_part(tmp_path):
    import shutil

    adapter = imagenet(tmp_path)
    shutil.rmtree(tmp_path / "train" / SYNSETS[1])
    (tmp_path / "train" / SYNSETS[2] / f"{SYNSETS[2]}_1.JPEG").unlink()
    message, _ = load_fault(adapter, tmp_path)
    assert f"train/ lacks 1 of 4 synsets, such as {SYNSETS[1]}" in message
    assert "train holds 8 images, expected 12: unpacking was cut short" in message
    shutil.rmtree(tmp_path / "train" / SYNSETS[2])
    assert adapter.find(tmp_path) is None  # half of the synsets: a subset is no ImageNet
    assert "train/ holds 2 of 4 synsets" in fault(adapter.download, tmp_path)[0]


def test_imagenet_without_val(tmp_path):
    import shutil

    adapter = imagenet(tmp_path)
    shutil.rmtree(tmp_path / "val")
    assert "there is no val/" in load_fault(adapter, tmp_path)[0]


def test_imagenet_devkit_and_solution_faults(tmp_path):
    adapter = imagenet(tmp_path, val="flat")
    kit = tmp_path / "ILSVRC2012_devkit_t12.tar.gz"
    imagenet_devkit(tmp_path)
    kit.write_bytes(kit.read_bytes()[:200])
    assert "validation labels cannot be read" in load_fault(adapter, tmp_path)[0]
    write_tar(kit, [("readme", b"")], "w:gz")
    assert "holds no data/ILSVRC2012_validation_ground" in load_fault(adapter, tmp_path)[0]
    write(tmp_path / "LOC_val_solution.csv", "ImageId,PredictionString\nx,n99999999 1 2 3 4\n")
    assert "validation labels cannot be read: 'n99999999'" in load_fault(adapter, tmp_path)[0]
    write(
        tmp_path / "LOC_val_solution.csv",
        f"ImageId,PredictionString\n{val_name(1)[:-5]},{SYNSETS[0]} 1 2 3 4\n",
    )
    assert "7 images have no label" in load_fault(adapter, tmp_path)[0]


def test_imagenet_archives_that_are_damaged_or_others(tmp_path):
    adapter = imagenet_tars(tmp_path)
    train = tmp_path / "ILSVRC2012_img_train.tar"
    whole = train.read_bytes()
    train.write_bytes(whole[: len(whole) // 2])
    assert "cannot be read as a tar archive" in load_fault(adapter, tmp_path)[0]
    inner = io.BytesIO()
    with tarfile.open(fileobj=inner, mode="w") as tar:
        tar.addfile(tarfile.TarInfo("x.JPEG"))
    write_tar(train, [("n00000001.tar", inner.getvalue())])
    message, _ = load_fault(adapter, tmp_path)
    assert "holds n00000001.tar, which is no synset" in message


def test_v2_of_the_wrong_size_or_classes(tmp_path):
    import shutil

    adapter = imagenet_v2(tmp_path)
    place = tmp_path / "imagenetv2-matched-frequency-format-val"
    shutil.rmtree(place / "11")
    message, hint = load_fault(adapter, tmp_path)
    assert "lacks 1 of 12 synsets, such as 11" in message
    assert "test holds 22 images, expected 24" in message
    assert hint.endswith(f"deit-transfer data prepare imagenet-v2 --data-dir {tmp_path}")


def v2_archive(root, *extra):
    """Write the archive of a miniature as the hub has it, with extra members."""
    folder = "imagenetv2-matched-frequency-format-val"
    members = [
        (f"{folder}/{label}/{label}-{number}.jpeg", jpeg(f"v2 {label} {number}"))
        for label in range(12)
        for number in range(2)
    ]
    write_tar(root / "imagenetv2-matched-frequency.tar.gz", [*members, *extra], "w:gz")


def test_v2_archive_placed_by_hand_is_unpacked(tmp_path):
    adapter = imagenet_v2(tmp_path / "made")
    v2_archive(tmp_path)
    place = adapter.download(tmp_path)
    assert adapter.find(tmp_path) == place
    assert adapter.load(place).info.counts == {"test": 24}


@pytest.mark.parametrize("evil", [("../outside", b"x"), ("link", None)])
def test_an_archive_that_reaches_outside_its_folder_is_refused(tmp_path, evil):
    adapter = imagenet_v2(tmp_path / "made")
    inside = tmp_path / "data" / "sets"
    v2_archive(inside, evil)
    before = {path.name for path in tmp_path.iterdir()}
    message, hint = fault(adapter.download, inside)
    assert "cannot be unpacked" in message
    assert hint.endswith(f"deit-transfer data prepare imagenet-v2 --data-dir {inside}")
    assert {path.name for path in tmp_path.iterdir()} == before
    assert adapter.find(inside) is None
    assert sorted(path.name for path in (tmp_path / "data").iterdir()) == ["sets"]


def test_absolute_names_in_an_archive_stay_inside(tmp_path):
    adapter = imagenet_v2(tmp_path / "made")
    outside = tmp_path / "outside"
    v2_archive(tmp_path / "data", (str(outside), b"x"))
    place = adapter.download(tmp_path / "data")
    assert not outside.exists()
    assert adapter.load(place).info.counts == {"test": 24}


def test_v2_offline_says_what_to_place_where(tmp_path):
    """The suite runs with HF_HUB_OFFLINE=1."""
    message, hint = fault(imagenet_tests.V2_TOP.download, tmp_path)
    assert "vaishaal/ImageNetV2" in message
    assert "imagenetv2-top-images.tar.gz" in hint
    assert hint.endswith(f"prepare imagenet-v2-top --data-dir {tmp_path}")


def test_real_of_other_or_too_few_images(tmp_path):
    adapter = imagenet_real(tmp_path)
    (tmp_path / "val" / val_name(8)).unlink()
    assert "7 validation images, expected 8" in load_fault(adapter, tmp_path)[0]
    write(tmp_path / "val" / "ILSVRC2012_val_00050001.JPEG", jpeg("x"))
    message, _ = load_fault(adapter, tmp_path)
    assert "1 files are no validation images, such as ILSVRC2012_val_00050001" in message


def test_a_subset_of_imagenet_is_an_ordinary_folder(tmp_path):
    """Imagenette has ten of the synsets, and its val/ file names are those of ImageNet."""
    for split, names in (("train", "n01440764_1.JPEG"), ("val", val_name(7))):
        for synset in ("n01440764", "n02102040", "n02979186"):
            for number in range(5):
                write(tmp_path / split / synset / f"{number}{names}", jpeg(f"{split}{number}"))
    assert catalog.load_dataset(str(tmp_path)).info.counts == {"train": 12, "val": 15, "test": 3}
