"""Datasets named by an address: what is read of them, and what each fault is answered with."""

import builtins
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from miniatures import (
    HUB_NAMES,
    hub_folder,
    jpeg,
    parquet,
    png,
    shard_address,
    shards,
    table,
    write,
    write_tar,
)

from deit_transfer.data.adapters import hf
from deit_transfer.data.adapters.wds import shard_paths
from deit_transfer.data.catalog import load_dataset
from deit_transfer.data.dataset import DatasetInfo
from deit_transfer.data.pipeline.decode import read_rgb
from deit_transfer.data.readers.tar_index import index_tar
from deit_transfer.errors import DataError, UsageError
from deit_transfer.training.choose_recipe import choose_recipe, default_recipe


def fault(address, kind=DataError, **options):
    with pytest.raises(kind) as caught:
        load_dataset(address, **options)
    assert caught.value.hint
    return caught.value.message, caught.value.hint


def write_parquet(root, counts, *, name="{split}-00000-of-00001.parquet", classes=3, **options):
    for split, count in counts.items():
        rows = [f"{split} {row}" for row in range(count)]
        parquet(
            Path(root) / name.format(split=split),
            [png(row) for row in rows],
            [row % classes for row in range(count)],
            **options,
        )
    return f"hf:{root}"


# Parquet


def test_parquet_rows_are_the_images_own_bytes_in_order(tmp_path):
    dataset = load_dataset(hub_folder(tmp_path))
    assert dataset.info.counts == {"train": 12, "val": 3, "test": 6}
    assert dataset.class_names == HUB_NAMES
    train = dataset.splits["train"]
    order = [*range(0, 12, 2), *range(1, 12, 2)]  # the first shard's rows, then the second's
    assert [train.read(i) for i in range(12)] == [png(f"train {row}") for row in order]
    assert train.labels.tolist() == [row % 3 for row in order]
    assert train.ids[0] == "train-000000"
    np.testing.assert_array_equal(read_rgb(train, 0).shape, (9, 8, 3))


def test_parquet_is_unpacked_once_and_again_when_it_changes(tmp_path, monkeypatch):
    address = write_parquet(tmp_path / "x", {"train": 6, "test": 3})
    load_dataset(address)
    cache = Path(os.environ["XDG_CACHE_HOME"]) / "deit-transfer" / "unpacked"
    before = {path: path.stat().st_mtime_ns for path in cache.glob("*/images.bin")}
    assert len(before) == 2
    load_dataset(address)
    assert {path: path.stat().st_mtime_ns for path in cache.glob("*/images.bin")} == before
    write_parquet(tmp_path / "x", {"train": 9})
    assert load_dataset(address).info.counts["train"] == 9
    assert len(list(cache.glob("*/images.bin"))) == 3


def test_of_two_label_columns_the_fine_one_is_taken(tmp_path):
    images = [png(str(row)) for row in range(6)]
    labels = {"coarse_label": [0] * 6, "fine_label": [0, 1, 2, 0, 1, 2]}
    for split in ("train", "test"):
        parquet(tmp_path / "x" / f"{split}.parquet", images, None, image="img", label=labels)
    dataset = load_dataset(f"hf:{tmp_path / 'x'}")
    assert dataset.splits["test"].labels.tolist() == [0, 1, 2, 0, 1, 2]
    assert "coarse_label is left out" in dataset.notes[0]


def test_labels_as_text_and_images_without_a_struct(tmp_path):
    images = [png(str(row)) for row in range(4)]
    for split in ("train", "test"):
        parquet(
            tmp_path / "x" / split / "0000.parquet",
            images,
            ["10", "9", "9", "10"],
            names=None,
            struct=False,
        )
    dataset = load_dataset(f"hf:{tmp_path / 'x'}")
    assert dataset.class_names == ("9", "10")
    assert dataset.splits["train"].labels.tolist() == [1, 0, 0, 1]


def test_a_split_without_labels_is_left_out_and_said(tmp_path):
    write_parquet(tmp_path / "x", {"train": 15, "validation": 3})
    parquet(tmp_path / "x" / "test-00000-of-00001.parquet", [png("x")] * 3, [-1, -1, -1])
    dataset = load_dataset(f"hf:{tmp_path / 'x'}")
    assert "3 of 3 images of test have no label" in dataset.notes[0]
    assert dataset.info.counts == {"train": 12, "val": 3, "test": 3}  # a fifth is set aside


def test_one_file_of_images_is_all_test_when_scored(tmp_path):
    parquet(tmp_path / "some.parquet", [png(str(i)) for i in range(6)], [0, 1, 2, 0, 1, 2])
    for address in (f"hf:{tmp_path / 'some.parquet'}", str(tmp_path / "some.parquet")):
        assert load_dataset(address, for_evaluation=True).info.counts == {"test": 6}
        assert load_dataset(address).info.counts == {"train": 3, "test": 3}


def test_known_wrong_copies_are_refused_by_name_and_by_count(tmp_path, monkeypatch):
    message, hint = fault("hf:nelorth/oxford-flowers")
    assert "not the official one" in message
    assert hint.endswith("hf:dpdl-benchmark/oxford_flowers102")
    assert "16.4k" in fault("hf:Voxel51/OxfordFlowers102@main")[0]
    counts = frozenset({("train", 6), ("test", 3)})
    monkeypatch.setitem(hf._WRONG_COUNTS, (3, counts), "nelorth/oxford-flowers")
    renamed = write_parquet(tmp_path / "x", {"train": 6, "test": 3})
    assert fault(renamed)[1].endswith("hf:dpdl-benchmark/oxford_flowers102")


def known_copy(tmp_path, monkeypatch, counts, *, expected, names=HUB_NAMES, splits=None):
    """Let the hub hold `counts` images under a known name, of which `expected` are required."""
    write_parquet(tmp_path / "snapshot", counts)
    info = DatasetInfo(
        name="bugs", title="Bugs", num_classes=3, counts=expected, license="", source=""
    )
    benchmark = hf.Benchmark(info, names, splits or {})
    monkeypatch.setattr(hf, "benchmarks", lambda: {"some/bugs": benchmark})
    monkeypatch.setattr(hf, "fetch_parquet", lambda *_, **__: (tmp_path / "snapshot", "c0ffee"))
    return "hf:Some/Bugs"


def test_a_known_copy_is_held_to_the_published_counts(tmp_path, monkeypatch):
    expected = {"train": 6, "test": 3}
    names = ("Ant", "BEE", "cat?")
    address = known_copy(tmp_path, monkeypatch, expected, expected=expected, names=names)
    dataset = load_dataset(address)
    assert dataset.info.name == "bugs"
    assert dataset.class_names == names  # the same names but for their spelling
    assert "revision c0ffee" in dataset.notes
    other = known_copy(tmp_path, monkeypatch, expected, expected=expected, names=("x", "y", "z"))
    assert load_dataset(other).class_names == HUB_NAMES
    known_copy(tmp_path, monkeypatch, expected, expected={"train": 7, "test": 3})
    message, hint = fault(address)
    assert "holds {'train': 6, 'test': 3}, and Bugs is {'train': 7, 'test': 3}" in message
    assert hint.endswith("or use the original: bugs")


def test_known_copies_name_what_is_in_the_catalog():
    from deit_transfer.data.catalog import list_datasets

    names = {info.name for info in list_datasets()}
    for repository, benchmark in hf.benchmarks().items():
        assert repository == repository.lower()
        assert benchmark.info.name in names
        assert len(benchmark.class_names) == benchmark.info.num_classes
        assert len(benchmark.groups) in (0, benchmark.info.num_classes)
        assert set(benchmark.info.counts) <= {"train", "val", "test"}


def test_a_known_copy_is_trained_by_the_recipe_of_its_dataset():
    for repository, benchmark in hf.benchmarks().items():
        for address in (f"hf:{repository}", f"hf:{repository.upper()}@main"):
            for mode in ("finetune", "scratch"):
                assert default_recipe(mode, address) == f"{mode}/{benchmark.info.name}"
    recipe = choose_recipe("finetune", "hf:dpdl-benchmark/oxford_flowers102")
    assert recipe.data.dataset == "hf:dpdl-benchmark/oxford_flowers102"
    assert recipe.data.train_on == "train+val"
    for other in ("hf:someone/photos", "wds:/data/imagenet-{00..63}.tar", "photos.csv", "photos"):
        assert default_recipe("scratch", other) == "scratch/folder"


def test_parquet_faults(tmp_path):
    missing = tmp_path / "missing"
    parquet(missing / "train-00001-of-00003.parquet", [png("x")], [0])
    message, _ = fault(f"hf:{missing}")
    assert "2 parquet files are missing" in message
    assert "train-00000-of-00003.parquet" in message
    two = tmp_path / "two"
    for config in ("small", "large"):
        write_parquet(two / config, {"train": 6, "test": 3})
    message, hint = fault(f"hf:{two}")
    assert "2 versions of train, in large, small" in message
    assert f"hf:{two / 'large'}" in hint
    assert load_dataset(f"hf:{two / 'large'}").info.counts == {"train": 6, "test": 3}
    plain = tmp_path / "plain"
    parquet(plain / "train.parquet", [png("x")], [0], label="what", names=None)
    message, _ = fault(f"hf:{plain}")
    assert "no label column" in message
    assert "image, what" in message
    damaged = tmp_path / "damaged"
    write(damaged / "train.parquet", b"version https://git-lfs.github.com/spec/v1\n")
    assert "cannot be read as parquet" in fault(f"hf:{damaged}")[0]
    cut = tmp_path / "cut"
    write_parquet(cut, {"train": 6})
    path = cut / "train-00000-of-00001.parquet"
    content = bytearray(path.read_bytes())
    content[4:64] = b"\xff" * 60
    path.write_bytes(content)
    assert "cannot be read as parquet" in fault(f"hf:{cut}")[0]
    empty = tmp_path / "empty"
    write_parquet(empty, {"train": 6})
    parquet(empty / "test.parquet", [None], [0])
    assert "holds no image bytes" in fault(f"hf:{empty}")[0]
    wrong = tmp_path / "wrong"
    parquet(wrong / "train.parquet", [png("x")], [7])
    assert "holds label 7, but 3 classes are named" in fault(f"hf:{wrong}")[0]
    (tmp_path / "nothing").mkdir()
    assert "holds no parquet file" in fault(f"hf:{tmp_path / 'nothing'}")[0]
    assert "does not exist" in fault("hf:./nowhere")[0]
    assert "Write hf:OWNER/NAME" in fault("hf:photos", UsageError)[1]
    cache = Path(os.environ["XDG_CACHE_HOME"]) / "deit-transfer" / "unpacked"
    assert not [path for path in cache.iterdir() if path.name.startswith(".") and path.is_dir()]


def test_without_pyarrow_the_extra_is_named(tmp_path, monkeypatch):
    address = hub_folder(tmp_path)
    original = builtins.__import__

    def without(name, *arguments, **options):
        if name.startswith("pyarrow"):
            raise ImportError(name)
        return original(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    message, hint = fault(address, UsageError)
    assert "pyarrow, which is not installed" in message
    assert "pip install 'deit-transfer[parquet]'" in hint


def test_the_hub_offline_says_how_to_bring_the_files(tmp_path, monkeypatch):
    """The suite runs with HF_HUB_OFFLINE=1."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    message, hint = fault("hf:uoft-cs/cifar10")
    assert "uoft-cs/cifar10" in message
    assert "HF_HUB_OFFLINE" in message
    assert "hf download --repo-type dataset uoft-cs/cifar10" in hint
    assert hint.endswith("hf:FOLDER")


def test_what_the_hubs_cache_holds_needs_no_network(tmp_path, monkeypatch):
    commit = "0123456789abcdef0123456789abcdef01234567"
    cached = tmp_path / "datasets--some--bugs"
    write_parquet(cached / "snapshots" / commit / "data", {"train": 6, "test": 3})
    write(cached / "refs" / "main", commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    for address in ("hf:some/bugs", f"hf:some/bugs@{commit}", "hf:some/bugs/data"):
        dataset = load_dataset(address)
        assert dataset.info.name == "hf:some/bugs"
        assert f"revision {commit}" in dataset.notes


# Shards


def test_shards_are_read_in_place(tmp_path):
    dataset = load_dataset(shard_address(tmp_path))
    assert dataset.info.counts == {"train": 12, "test": 4}
    assert dataset.class_names == HUB_NAMES
    train = dataset.splits["train"]
    assert train.ids[5] == "bugs-train-0001/train000005"
    assert [train.read(i) for i in range(12)] == [jpeg(f"train{i:06d}") for i in range(12)]
    assert train.labels.tolist() == [i % 3 for i in range(12)]
    assert "bugs-train-0001.tar: train000005" in train.where(5)
    assert len(pickle.dumps(train)) < 10_000


def test_a_folder_of_shards_and_several_patterns(tmp_path):
    address = shard_address(tmp_path)
    place = tmp_path / "shards"
    by_folder = load_dataset(f"wds:{place}")
    joined = load_dataset(f"wds:{place}/bugs-train-*.tar::{place}/bugs-test-0000.tar")
    for dataset in (by_folder, joined):
        assert dataset.info.counts == load_dataset(address).info.counts
    assert load_dataset(f"wds:{place}/bugs-train-{{0000..0002}}.tar").info.counts == {
        "train": 9,
        "test": 3,
    }


def test_braces_within_braces(tmp_path):
    for name in ("a0x1", "a0x2", "a1x1", "a1x2", "b"):
        write_tar(tmp_path / f"{name}.tar", [])
    found = shard_paths(f"{tmp_path}/{{a{{0..1}}x{{1..2}},b}}.tar")
    assert [path.stem for path in found] == ["a0x1", "a0x2", "a1x1", "a1x2", "b"]


def test_labels_in_json_and_keys_in_folders(tmp_path):
    members = []
    for row in range(8):
        members += [
            (f"./part/{row}.seg.png", b"not an image of its own"),
            (f"./part/{row}.jpeg", jpeg(str(row))),
            (f"./part/{row}.json", b'{"label": %d, "filename": "x"}' % (row % 2)),
        ]
    write_tar(tmp_path / "all.tar", members)
    dataset = load_dataset(f"wds:{tmp_path / 'all.tar'}", for_evaluation=True)
    assert dataset.splits["test"].labels.tolist() == [row % 2 for row in range(8)]
    assert dataset.class_names == ("0", "1")
    assert "class names are numbers" in dataset.notes[0]


def test_shard_faults_are_listed_together(tmp_path):
    write_tar(
        tmp_path / "x" / "a.tar",
        [
            ("1.jpg", b"x"),
            ("2.jpg", b"x"),
            ("2.png", b"x"),
            ("2.cls", b"one"),
            ("3.cls", b"3"),
            ("4.jpg", b"x"),
            ("4.cls", b"-1"),
            ("evil", None),
        ],
    )
    write_tar(tmp_path / "x" / "b.tar", [])
    message, _ = fault(f"wds:{tmp_path / 'x'}")
    for text in (
        "a.tar: sample 2 has two images",
        "a.tar: 2.cls is no whole number",
        "a.tar: sample 1 has no label",
        "a.tar: sample 3 has no image",
        "a.tar: 4.cls is no whole number from 0",
        "a.tar: 1 links or devices",
        "b.tar holds no sample",
    ):
        assert text in message


def test_missing_compressed_and_cut_shards(tmp_path):
    place = shards(tmp_path)
    message, hint = fault(f"wds:{place}/bugs-train-{{0000..0004}}.tar")
    assert "2 of 5 shards are missing" in message
    assert "bugs-train-0003.tar" in message
    assert "{0000..0127}" in hint
    assert "names no tar file" in fault(f"wds:{tmp_path}/*.tar")[0]
    write_tar(tmp_path / "z" / "a.tar", [("1.jpg", b"x")], "w:gz")
    assert fault(f"wds:{tmp_path / 'z'}")[1].endswith(f"gunzip {tmp_path / 'z' / 'a.tar'}")
    shard = place / "bugs-train-0001.tar"
    shard.write_bytes(shard.read_bytes()[:1100])
    assert "cannot be read as a tar" in fault(f"wds:{place}")[0]


def test_shards_of_some_split_and_of_none_do_not_mix(tmp_path):
    place = shards(tmp_path)
    write_tar(place / "more.tar", [("1.jpg", jpeg("1")), ("1.cls", b"0")])
    assert "more.tar is of no split" in fault(f"wds:{place}")[0]
    write(place / "classnames.txt", "ant\nbee\n")
    (place / "more.tar").unlink()
    assert "holds label 2, but 2 classes are named" in fault(f"wds:{place}")[0]


def test_an_index_is_made_again_when_its_archive_changes(tmp_path):
    path = tmp_path / "a.tar"
    write_tar(path, [("1.jpg", b"one")])
    assert list(index_tar(path).names) == ["1.jpg"]
    cache = Path(os.environ["XDG_CACHE_HOME"]) / "deit-transfer" / "index"
    (kept,) = cache.iterdir()
    again = index_tar(path)
    assert (again.starts.tolist(), again.lengths.tolist()) == ([512], [3])
    kept.write_bytes(b"damaged")
    assert list(index_tar(path).names) == ["1.jpg"]
    write_tar(path, [("1.jpg", b"one"), ("2.jpg", b"two!")])
    assert index_tar(path).lengths.tolist() == [3, 4]


def test_many_shards_stay_within_the_open_files(tmp_path, monkeypatch):
    monkeypatch.setattr("deit_transfer.data.readers.byte_ranges._MOST_OPEN", 2)
    place = shards(tmp_path, count=12, per_shard=1)
    images = load_dataset(f"wds:{place}", for_evaluation=True).splits["test"]
    for order in (range(12), reversed(range(12))):
        for i in order:
            assert images.read(i) == jpeg(f"train{i:06d}")
    assert len(images.source._open) == 2


def test_a_shard_that_shrank_after_indexing_is_an_image_error(tmp_path):
    from deit_transfer.errors import ImageError

    place = shards(tmp_path)
    images = load_dataset(f"wds:{place}", for_evaluation=True).splits["test"]
    shard = place / "bugs-train-0002.tar"
    os.truncate(shard, 600)
    with pytest.raises(ImageError, match=r"bugs-train-0002\.tar: train000011"):
        read_rgb(images, 11)


# Tables


def test_a_table_in_each_format(tmp_path):
    dataset = load_dataset(table(tmp_path))
    assert dataset.info.counts == {"train": 9, "test": 6}
    assert dataset.splits["train"].labels.tolist() == [row % 3 for row in range(9)]
    assert dataset.splits["train"].apply_exif
    lines = (tmp_path / "table.csv").read_text().replace("test", "test").splitlines()
    write(tmp_path / "table.tsv", "\n".join(lines).replace(",", "\t"))
    import pyarrow
    import pyarrow.parquet

    rows = [line.split(",") for line in lines]
    columns = {name: [row[i] for row in rows[1:]] for i, name in enumerate(rows[0])}
    pyarrow.parquet.write_table(pyarrow.table(columns), tmp_path / "table.parquet")
    for kind in ("tsv", "parquet"):
        other = load_dataset(str(tmp_path / f"table.{kind}"))
        for split, images in dataset.splits.items():
            assert list(other.splits[split].ids) == list(images.ids)
            assert other.splits[split].labels.tolist() == images.labels.tolist()


def test_a_table_without_splits_sets_a_test_split_aside(tmp_path):
    lines = ["\ufeffLabel , path"]
    for row in range(20):
        write(tmp_path / "i" / f"{row}.png", png(str(row)))
        lines.append(f"{10 if row % 2 else 9}, {tmp_path if row < 5 else '.'}/i/{row}.png")
    write(tmp_path / "t.csv", "\r\n".join(lines))
    dataset = load_dataset(str(tmp_path / "t.csv"))
    assert dataset.info.counts == {"train": 16, "test": 4}
    assert dataset.class_names == ("9", "10")
    assert read_rgb(dataset.splits["train"], 0).shape == (9, 8, 3)


def test_table_faults_are_listed_together(tmp_path):
    write(tmp_path / "a.png", png("a"))
    lines = ["path,label,split", "a.png,x,train", "a.png,y,Train", ",z,testt", "b.png,,", "c,d,"]
    write(tmp_path / "t.csv", "\n".join(lines))
    message, hint = fault(str(tmp_path / "t.csv"))
    for text in (
        "row 4 has no path",
        "row 5 has no label",
        "split 'testt' is none of",
        "mean the same under two names",
        "2 rows name no split, where others do",
        "1 paths are listed twice",
        "2 of 5 images are missing (b.png, c)",
    ):
        assert text in message
    assert hint.endswith("cats/1.jpg,cat,train")


def test_tables_that_are_none(tmp_path):
    assert "there is no table" in fault("./nowhere.csv")[0]
    write(tmp_path / "t.csv", "file,class\nx,y\n")
    assert "has no column path and label, only file, class" in fault(str(tmp_path / "t.csv"))[0]
    write(tmp_path / "t.csv", "path,label\n")
    assert "it has no rows" in fault(str(tmp_path / "t.csv"))[0]
    write(tmp_path / "t.csv", b"path,label\n\xff,\xfe\n")
    assert "cannot be read as a table" in fault(str(tmp_path / "t.csv"))[0]
    write(tmp_path / "t.csv", "")
    assert "only nothing" in fault(str(tmp_path / "t.csv"))[0]


# Rows, classes and names that contradict each other


def test_a_row_with_another_number_of_fields_names_its_line(tmp_path):
    file = tmp_path / "cut.csv"
    file.write_text('path,label\na.jpg,"maple, red"\nb.jpg,maple, red\n')
    with pytest.raises(DataError, match=r"line 3 of .* has 3 fields, and the header 2"):
        load_dataset(str(file))


def test_a_class_that_only_test_has_is_refused(tmp_path):
    address = table(tmp_path)
    lines = (tmp_path / "table.csv").read_text().splitlines()
    kept = [line for line in lines if not line.endswith(f"{HUB_NAMES[2]},train")]
    (tmp_path / "table.csv").write_text("\n".join(kept) + "\n")
    with pytest.raises(DataError, match=r"test has images of 1 class .*, and train has none"):
        load_dataset(address)


def test_one_class_alone_is_refused(tmp_path):
    address = table(tmp_path)
    lines = (tmp_path / "table.csv").read_text().splitlines()
    (tmp_path / "table.csv").write_text("\n".join([lines[0], *lines[1::3]]) + "\n")
    with pytest.raises(DataError, match="only one class"):
        load_dataset(address)


def test_a_shard_whose_keys_have_dots_is_refused(tmp_path):
    members = [(f"v1.{n}.{kind}", content) for n in range(4) for kind, content in
               (("jpg", jpeg(f"v{n}")), ("cls", str(n % 2).encode()))]  # fmt: skip
    write_tar(tmp_path / "train-0.tar", [("0.cls", b"0"), ("0.jpg", jpeg("0")), *members])
    with pytest.raises(DataError, match="key ends at the first dot, 'v1' here"):
        load_dataset(f"wds:{tmp_path}/train-0.tar")
