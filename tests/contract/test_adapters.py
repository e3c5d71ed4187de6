"""Every adapter, on a miniature in its true layout, keeps the same promises."""

import functools
import os
import pickle
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from deit_transfer.data.adapters.cifar import CIFAR10, CIFAR100, read_pickle
from deit_transfer.data.adapters.digits import DigitsAdapter
from deit_transfer.data.adapters.folder import FolderAdapter
from deit_transfer.data.check import check_dataset
from deit_transfer.data.fingerprint import fingerprint
from deit_transfer.data.pipeline.decode import read_rgb
from deit_transfer.errors import DataError


def write_image(path, seed=0, size=(6, 5)):
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng([seed, *str(path).encode()])
    Image.fromarray(noise.integers(0, 256, (*size, 3), np.uint8)).save(path)


def write_tree(root, classes, per_class, kind="png"):
    for name in classes:
        for i in range(per_class):
            write_image(root / name / f"{i}.{kind}")
    return root


def cifar_batch(n, num_classes, seed):
    noise = np.random.default_rng(seed)
    labels = [int(i) % num_classes for i in noise.permutation(n)]  # every class, where n allows
    return noise.integers(0, 256, (n, 3072), np.uint8), labels


def write_cifar(adapter, root, train=4, test=6, protocol=2):
    """Write the files of one of the two sets and return an adapter that expects these counts."""
    folder = root / adapter.folder
    folder.mkdir(parents=True)
    for seed, name in enumerate((*adapter.train_files, *adapter.test_files)):
        n = test if name in adapter.test_files else train
        data, labels = cifar_batch(n, len(adapter.class_names), seed)
        batch = {"batch_label": name, adapter.labels_key: labels, "data": data, "filenames": []}
        if adapter is CIFAR100:
            batch["coarse_labels"] = [0] * n
        (folder / name).write_bytes(pickle.dumps(batch, protocol))
    meta = {adapter.names_key: list(adapter.class_names), "num_vis": 3072}
    (folder / adapter.meta_file).write_bytes(pickle.dumps(meta, protocol))
    counts = {"train": train * len(adapter.train_files), "test": test}
    return replace(adapter, info=replace(adapter.info, counts=counts))


def digits(root):
    return DigitsAdapter()


def split_tree(root):
    for split, per_class in (("train", 4), ("valid", 2), ("test", 3)):
        write_tree(root / split, ["ant", "bee", "cat"], per_class)
    return FolderAdapter()


def one_tree(root):
    write_tree(root, ["ant", "bee"], 10, kind="JPG")
    return FolderAdapter()


MINIATURES = {
    "digits": digits,
    "cifar10": functools.partial(write_cifar, CIFAR10),
    "cifar100": functools.partial(write_cifar, CIFAR100),
    "split folders": split_tree,
    "one tree": one_tree,
}


@pytest.fixture(params=MINIATURES)
def loaded(request, tmp_path):
    adapter = MINIATURES[request.param](tmp_path)
    return adapter, adapter.load(adapter.find(tmp_path))


def test_labels_names_and_counts_agree(loaded):
    _, dataset = loaded
    assert {"train", "test"} <= dataset.splits.keys() <= {"train", "val", "test"}
    assert len(set(dataset.class_names)) == dataset.num_classes == dataset.info.num_classes
    for split, images in dataset.splits.items():
        assert dataset.info.counts[split] == len(images) == len(images.labels) == len(images.ids)
        assert images.labels.dtype == np.int64
        assert 0 <= images.labels.min() <= images.labels.max() < dataset.num_classes


def test_splits_are_disjoint_and_ids_unique(loaded):
    _, dataset = loaded
    places = [
        (id(images.source), images.where(i))
        for images in dataset.splits.values()
        for i in range(len(images))
    ]
    assert len(set(places)) == len(places)
    for images in dataset.splits.values():
        assert len(set(images.ids)) == len(images)


def test_images_decode_and_subsets_follow(loaded):
    _, dataset = loaded
    images = dataset.splits["train"]
    last = images.subset([len(images) - 1, 0])
    for index, original in ((0, len(images) - 1), (1, 0)):
        pixels = read_rgb(last, index)
        assert pixels.dtype == np.uint8
        assert pixels.shape[2] == 3
        np.testing.assert_array_equal(pixels, read_rgb(images, original))
        assert last.ids[index] == images.ids[original]
        assert last.labels[index] == images.labels[original]
        assert last.where(index) == images.where(original)
        assert last.size(index) == images.size(original)
    assert last.apply_exif == images.apply_exif == dataset.info.apply_exif


def test_loading_again_and_pickling_change_nothing(loaded, tmp_path):
    adapter, dataset = loaded
    names = dataset.class_names
    before = fingerprint(dataset.splits, names)
    assert fingerprint(adapter.load(adapter.find(tmp_path)).splits, names) == before
    assert fingerprint(pickle.loads(pickle.dumps(dataset)).splits, names) == before


def test_the_check_finds_nothing(loaded):
    report = check_dataset(loaded[1], workers=0)
    assert [text for text in report.problems if "has no image of" not in text] == []
    assert report.unreadable == []


def test_digits_are_the_published_ones():
    from sklearn.datasets import load_digits

    dataset = DigitsAdapter().load(None)
    raw = load_digits()
    seen = np.zeros(1797, int)
    for images in dataset.splits.values():
        for index in range(len(images)):
            original = int(images.ids[index].removeprefix("digits-"))
            seen[original] += 1
            assert images.labels[index] == raw.target[original]
        pixels = images.read(0)
        original = int(images.ids[0].removeprefix("digits-"))
        expected = np.rint(raw.images[original] / 16 * 255)
        np.testing.assert_array_equal(pixels, np.stack([expected] * 3, axis=-1))
    assert seen.tolist() == [1] * 1797
    np.testing.assert_allclose(
        np.bincount(dataset.splits["test"].labels), np.bincount(raw.target) * 0.2, atol=1
    )


def test_class_name_lists_are_right():
    assert len(CIFAR10.class_names) == 10
    assert len(CIFAR100.class_names) == 100
    assert list(CIFAR100.class_names) == sorted(set(CIFAR100.class_names))


# CIFAR


# The coarse label of each fine one, as the pickles number both.
COARSE_LABELS = (
    "4 1 14 8 0 6 7 7 18 3 3 14 9 18 7 11 3 9 7 11 6 11 5 10 7 6 13 15 3 15 0 11 1 10 12 14 16 9 "
    "11 5 5 19 8 8 15 13 14 17 18 10 16 4 17 4 2 0 17 4 18 17 10 3 2 12 12 16 12 1 9 19 2 10 0 1 "
    "16 12 9 13 15 13 16 19 2 4 6 19 5 5 8 19 18 1 2 15 6 0 17 8 14 13"
)


def test_the_groups_of_cifar100_are_its_coarse_labels(tmp_path):
    adapter = write_cifar(CIFAR100, tmp_path)
    groups = adapter.load(adapter.find(tmp_path)).groups
    names = sorted(set(groups))  # the pickles number them in this order
    assert [names.index(group) for group in groups] == [int(n) for n in COARSE_LABELS.split()]
    assert all(groups.count(name) == 5 for name in names)
    assert CIFAR10.groups == ()


def test_cifar_planes_become_pixels(tmp_path):
    adapter = write_cifar(CIFAR10, tmp_path)
    dataset = adapter.load(tmp_path / "cifar-10-batches-py")
    data, labels = cifar_batch(4, 10, seed=1)  # data_batch_2
    for i in range(4):
        red, green, blue = (data[i, c * 1024 : (c + 1) * 1024].reshape(32, 32) for c in range(3))
        expected = np.stack([red, green, blue], axis=-1)
        np.testing.assert_array_equal(dataset.splits["train"].read(4 + i), expected)
    assert dataset.splits["train"].labels[4:8].tolist() == labels
    assert dataset.splits["test"].labels.tolist() == cifar_batch(6, 10, seed=5)[1]


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("adapter", [CIFAR10, CIFAR100], ids=["10", "100"])
def test_cifar_is_found_at_its_folder_or_the_parent(tmp_path, adapter, protocol):
    mini = write_cifar(adapter, tmp_path, protocol=protocol)
    folder = tmp_path / adapter.folder
    assert mini.find(tmp_path) == mini.find(folder) == folder
    assert mini.find(tmp_path / "nowhere") is None
    assert len(mini.load(folder).splits["test"]) == 6


def test_a_pickle_of_python_2_is_read(tmp_path):
    """Written opcode by opcode, as Python 2 and NumPy 1 wrote the original files."""

    def text(value):
        return b"U" + bytes([len(value)]) + value

    pixels = bytes(range(256)) * 24  # two images
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85" + text(b"b") + b"tR"
        b"(K\x01K\x02M\x00\x0c\x86cnumpy\ndtype\n("
        + text(b"u1")
        + b"K\x00K\x01tR(K\x03"
        + text(b"|")
        + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89"
        b"T" + len(pixels).to_bytes(4, "little") + pixels + b"tb"
    )
    stream = b"\x80\x02}(" + text(b"data") + array + text(b"labels") + b"](K\x03K\x07eu."
    (tmp_path / "batch").write_bytes(stream)
    batch = read_pickle(tmp_path / "batch")
    assert batch["labels"] == [3, 7]
    assert batch["data"].shape == (2, 3072)
    assert batch["data"].tobytes() == pixels


def test_one_note_tells_of_other_checksums(tmp_path):
    mini = write_cifar(CIFAR10, tmp_path)
    folder = tmp_path / CIFAR10.folder
    (note,) = mini.load(folder).notes
    assert "7 of 7 files differ" in note
    from deit_transfer.data.fetch.download import checksum

    exact = {name: checksum(folder / name, "md5") for name in mini.md5}
    assert replace(mini, md5=exact).load(folder).notes == []


@pytest.mark.parametrize("adapter", [CIFAR10, CIFAR100], ids=["10", "100"])
def test_wrong_counts_are_an_error_for_users(tmp_path, adapter):
    write_cifar(adapter, tmp_path)
    with pytest.raises(DataError, match="expected 50000") as caught:
        adapter.load(tmp_path / adapter.folder)
    assert "expected 10000" in caught.value.message  # all faults at once
    assert adapter.archive.name in caught.value.hint


def faults_of(mini, root, files):
    for name, content in files.items():
        path = root / CIFAR10.folder / name
        if content is None:
            path.unlink()
        else:
            path.write_bytes(content if isinstance(content, bytes) else pickle.dumps(content))
    with pytest.raises(DataError) as caught:
        mini.load(root / CIFAR10.folder)
    assert caught.value.hint
    return caught.value.message


def test_cifar_faults_are_listed_together(tmp_path):
    mini = write_cifar(CIFAR10, tmp_path)
    data, labels = cifar_batch(4, 10, seed=0)
    names = list(CIFAR10.class_names)
    message = faults_of(
        mini,
        tmp_path,
        {
            "data_batch_1": b"\x80\x02}q\x00(cut",
            "data_batch_2": {"labels": labels, "data": data[:, :3000]},
            "data_batch_3": {"labels": [*labels[:3], 10], "data": data},
            "data_batch_4": {"labels": labels[:3], "data": data},
            "data_batch_5": {"data": data},
            "test_batch": [1, 2],
            "batches.meta": {"label_names": names[::-1]},
        },
    )
    for fault in (
        "data_batch_1: damaged",
        "data_batch_2: its 'data' has shape (4, 3000)",
        "data_batch_3: labels outside 0..9",
        "data_batch_4: 3 labels for 4 images",
        "data_batch_5: no 'labels'",
        "test_batch: holds a list",
        "batches.meta: its 'label_names' are not those",
    ):
        assert fault in message


def test_missing_files_are_listed_together(tmp_path):
    mini = write_cifar(CIFAR10, tmp_path)
    message = faults_of(mini, tmp_path, {"data_batch_3": None, "test_batch": None})
    assert "data_batch_3 is missing" in message
    assert "test_batch is missing" in message


class Touch:
    """A pickle that would write a file if it were run."""

    def __init__(self, call, *arguments):
        self.call, self.arguments = call, arguments

    def __reduce__(self):
        return self.call, self.arguments


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_malicious_pickle_is_refused_not_run(tmp_path, protocol):
    mini = write_cifar(CIFAR10, tmp_path)
    victim = tmp_path / "touched"
    payloads = [
        Touch(os.system, f"touch {victim}"),
        Touch(eval, f"open({str(victim)!r}, 'w')"),
        Touch(exec, f"open({str(victim)!r}, 'w')"),
        Touch(np.fromfile, str(victim)),
        Touch(np.save, str(victim), np.zeros(1)),
    ]
    for payload in payloads:
        evil = pickle.dumps({"data": payload, "labels": []}, protocol)
        message = faults_of(mini, tmp_path, {"data_batch_1": evil})
        assert "data_batch_1: refused" in message
        assert not list(tmp_path.glob("touched*"))


@pytest.mark.parametrize("name", ["ndarray.tofile", "ndarray.dump", "_core.multiarray.os.system"])
def test_dotted_names_are_refused(tmp_path, name):
    """Protocol 4 may ask for an attribute of something known."""
    stream = b"\x80\x04\x8c\x05numpy\x8c" + bytes([len(name)]) + name.encode() + b"\x93."
    (tmp_path / "evil").write_bytes(stream)
    with pytest.raises(ValueError, match="refused"):
        read_pickle(tmp_path / "evil")


def test_download_unpacks_an_archive_placed_by_hand(tmp_path):
    """No network: the archive lies there, is verified and unpacked, and the set loads."""
    import tarfile

    mini = write_cifar(CIFAR10, tmp_path / "made")
    data_dir = tmp_path / "data"
    data_dir.mkdir()
    with tarfile.open(data_dir / "cifar-10-python.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "made" / CIFAR10.folder, CIFAR10.folder)
    with pytest.raises(DataError, match="is not the published"):
        mini.download(data_dir)
    from deit_transfer.data.fetch.download import checksum

    md5 = checksum(data_dir / "cifar-10-python.tar.gz", "md5")
    mini = replace(mini, archive=replace(mini.archive, checksum=md5))
    assert mini.download(data_dir) == data_dir / CIFAR10.folder == mini.find(data_dir)
    assert len(mini.load(mini.find(data_dir)).splits["train"]) == 20
