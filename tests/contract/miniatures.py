"""Miniatures of every dataset in its true layout with its true file names, written by the tests.

Each writer makes the files below a folder and returns the adapter that expects these counts and
classes, or the address that names them. Image content depends on the image's name alone.
"""

import io
import json
import tarfile
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from deit_transfer.data.adapters.cars import CarsAdapter
from deit_transfer.data.adapters.flowers102 import FlowersAdapter
from deit_transfer.data.adapters.imagenet import ImageNetAdapter
from deit_transfer.data.adapters.imagenet_tests import REAL, V2_MATCHED
from deit_transfer.data.adapters.inat import INAT2018, INAT2019

SYNSETS = ("n01440764", "n01443537", "n02102040", "n03445777")
CAR_NAMES = ("AM General Hummer SUV 2000", "Ram C/V Cargo Van Minivan 2012", "Volvo 240 Sedan 1993")
FLOWER_NAMES = ("pink primrose", "sweet pea", "pink-yellow dahlia?")


def pixels(name, size=(9, 8)):
    seed = zlib.crc32(str(name).encode())
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)


def jpeg(name, size=(9, 8)):
    buffer = io.BytesIO()
    Image.fromarray(pixels(name, size)).save(buffer, "JPEG")
    return buffer.getvalue()


def png(name, size=(9, 8)):
    buffer = io.BytesIO()
    Image.fromarray(pixels(name, size)).save(buffer, "PNG")
    return buffer.getvalue()


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())


def write_tar(path, members, mode="w"):
    """Write a tar of (name, content) pairs; content None makes a link to /etc/passwd."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            if content is None:
                info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
                tar.addfile(info)
            else:
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))


# Flowers-102

FLOWER_SPLIT = {"trnid": [6, 2, 11], "valid": [1, 12, 5], "tstid": [3, 4, 7, 8, 9, 10]}
FLOWER_LABELS = [1, 1, 2, 3, 2, 2, 3, 1, 2, 3, 3, 3]  # of images 1 to 12


def flowers(root, *, folder="flowers-102", split=None, labels=None, images=12):
    from scipy.io import savemat

    place = Path(root) / folder
    for number in range(1, images + 1):
        write(place / "jpg" / f"image_{number:05d}.jpg", jpeg(f"flower {number}"))
    split = split or FLOWER_SPLIT
    savemat(place / "setid.mat", {key: np.array([ids], np.uint16) for key, ids in split.items()})
    savemat(place / "imagelabels.mat", {"labels": np.array([labels or FLOWER_LABELS], np.uint8)})
    info = replace(FlowersAdapter().info, num_classes=3, counts={"train": 3, "val": 3, "test": 6})
    return FlowersAdapter(info=info, class_names=FLOWER_NAMES)


# Stanford Cars

CAR_TRAIN, CAR_TEST = [3, 1, 2, 1, 2, 3], [2, 3, 1, 2]


def records(columns):
    """Return a MATLAB struct array with these fields."""
    kinds = [(name, "O") for name in columns]
    rows = zip(*columns.values(), strict=True)
    return np.array([tuple(row) for row in rows], dtype=kinds)


def car_annotations(files, classes=None):
    count = len(files)
    columns = {f"bbox_{corner}": [1] * count for corner in ("x1", "y1", "x2", "y2")}
    columns |= {"class": classes} if classes is not None else {}
    return {"annotations": records(columns | {"fname": files})}


def car_meta():
    return {"class_names": np.array(CAR_NAMES, dtype=object)}


def car_adapter():
    info = replace(CarsAdapter().info, num_classes=3, counts={"train": 6, "test": 4})
    return CarsAdapter(info=info, class_names=CAR_NAMES)


def cars(root, *, folder="stanford_cars", labeled="", nested=False):
    """Write the devkit layout; `labeled` is the folder of the labeled test annotations."""
    from scipy.io import savemat

    place = Path(root) / folder
    (place / "devkit").mkdir(parents=True)
    for split, classes in (("train", CAR_TRAIN), ("test", CAR_TEST)):
        names = [f"{i:05d}.jpg" for i in range(1, len(classes) + 1)]
        inside = f"cars_{split}/cars_{split}" if nested else f"cars_{split}"
        for name in names:
            write(place / inside / name, jpeg(f"car {split} {name}"))
        if split == "train":
            savemat(place / "devkit" / "cars_train_annos.mat", car_annotations(names, classes))
        else:
            savemat(place / "devkit" / "cars_test_annos.mat", car_annotations(names))
            if labeled is not None:
                path = place / labeled / "cars_test_annos_withlabels.mat"
                savemat(path, car_annotations(names, classes))
    savemat(place / "devkit" / "cars_meta.mat", car_meta())
    return car_adapter()


def cars_one_file(root):
    """Write car_ims/ with cars_annos.mat, the authors' other archive."""
    from scipy.io import savemat

    classes = [*CAR_TRAIN, *CAR_TEST]
    paths = [f"car_ims/{i:06d}.jpg" for i in range(1, len(classes) + 1)]
    for path in paths:
        write(Path(root) / path, jpeg(path))
    columns = {
        "relative_im_path": paths,
        "class": classes,
        "test": [0] * len(CAR_TRAIN) + [1] * len(CAR_TEST),
    }
    savemat(Path(root) / "cars_annos.mat", {"annotations": records(columns), **car_meta()})
    return car_adapter()


def cars_by_class(root):
    for split, classes in (("train", CAR_TRAIN), ("test", CAR_TEST)):
        for number, label in enumerate(classes, start=1):
            folder = CAR_NAMES[label - 1].replace("/", "-")
            write(Path(root) / split / folder / f"{number:05d}.jpg", jpeg(f"{split} {number}"))
    return car_adapter()


# iNaturalist

TAXA = [  # by category id: name, genus, family, kingdom, super-category
    ("Aix sponsa", "Aix", "Anatidae", "Animalia", "Aves"),
    ("Amanita muscaria", "Amanita", "Amanitaceae", "Fungi", "Fungi"),
    ("Aix galericulata", "Aix", "Anatidae", "Animalia", "Aves"),
    ("Anas acuta", "Anas", "Anatidae", "Animalia", "Aves"),
]
INAT_TRAIN, INAT_VAL = [2, 1, 0, 2, 3, 1, 0, 3], [0, 1, 2, 3]  # category ids


def inat_categories(year, *, obfuscated):
    fields = ("name", "genus", "family", "kingdom", "supercategory")
    categories = [
        {"id": i, **dict(zip(fields, taxon, strict=True)), "class": taxon[4], "order": taxon[2]}
        for i, taxon in enumerate(TAXA)
    ]
    for category in categories:
        if year == "2019":
            del category["supercategory"]
        if obfuscated:
            category["name"] = str(category["id"])
    return categories


def inat_json(year, split, category_ids):
    images = [
        {
            "id": 100 + i,
            "file_name": f"train_val{year}/{TAXA[category][4]}/{category}/{split}{i}.jpg",
            "width": 8,
            "height": 9,
        }
        for i, category in enumerate(category_ids)
    ]
    annotations = [
        {"id": 100 + i, "image_id": 100 + i, "category_id": category}
        for i, category in enumerate(category_ids)
    ]
    return {
        "info": {"year": int(year)},
        "images": images,
        "annotations": annotations[::-1] if split == "val" else annotations,
        "categories": inat_categories(year, obfuscated=True),
    }


def inat(root, year="2018", *, flat=False, names=True):
    adapter = INAT2018 if year == "2018" else INAT2019
    place = Path(root)
    for split, ids in (("train", INAT_TRAIN), ("val", INAT_VAL)):
        content = inat_json(year, split, ids)
        write(place / f"{split}{year}.json", json.dumps(content))
        for image in content["images"]:
            tree, _, category, name = image["file_name"].split("/")
            path = f"{tree}/{category}/{name}" if flat else image["file_name"]
            write(place / path, jpeg(image["file_name"]))
    if names:
        categories = inat_categories(year, obfuscated=False)
        write(place / "categories.json", json.dumps(categories[::-1]))
    counts = {"train": len(INAT_TRAIN), "test": len(INAT_VAL)}
    return replace(adapter, info=replace(adapter.info, num_classes=4, counts=counts))


# ImageNet

VAL_SYNSETS = (2, 0, 3, 1, 1, 2, 0, 3)  # label of validation images 1 to 8
TRAIN_PER_SYNSET = 3


def val_name(number):
    return f"ILSVRC2012_val_{number:08d}.JPEG"


def imagenet_adapter():
    counts = {"train": TRAIN_PER_SYNSET * len(SYNSETS), "test": len(VAL_SYNSETS)}
    info = replace(ImageNetAdapter().info, num_classes=len(SYNSETS), counts=counts)
    return ImageNetAdapter(info=info, synset_names=SYNSETS)


def synset_images(synset):
    names = [f"{synset}_{number}.JPEG" for number in range(1, TRAIN_PER_SYNSET + 1)]
    return [(name, jpeg(name)) for name in names]


def imagenet(root, *, val="folders"):
    """Write train/ and val/; `val` is "folders" or "flat"."""
    for synset in SYNSETS:
        for name, content in synset_images(synset):
            write(Path(root) / "train" / synset / name, content)
    imagenet_val(root, flat=val == "flat")
    return imagenet_adapter()


def imagenet_val(root, *, flat):
    for number, label in enumerate(VAL_SYNSETS, start=1):
        folder = "" if flat else SYNSETS[label]
        write(Path(root) / "val" / folder / val_name(number), jpeg(val_name(number)))


def imagenet_devkit(root):
    """Write the devkit, which numbers synsets in an order of its own."""
    from scipy.io import savemat

    order = [SYNSETS[i] for i in (3, 1, 0, 2)]  # ILSVRC2012_ID 1, 2, 3, 4
    meta = io.BytesIO()
    ids = list(range(1, len(order) + 1))
    savemat(meta, {"synsets": records({"ILSVRC2012_ID": ids, "WNID": order})})
    truth = "\n".join(str(order.index(SYNSETS[label]) + 1) for label in VAL_SYNSETS)
    folder = "ILSVRC2012_devkit_t12/data/"
    members = [
        (folder + "ILSVRC2012_validation_ground_truth.txt", truth.encode()),
        (folder + "meta.mat", meta.getvalue()),
    ]
    write_tar(Path(root) / "ILSVRC2012_devkit_t12.tar.gz", members, "w:gz")


def imagenet_tars(root):
    """Write the three original archives: the training one holds an archive for each synset."""
    outer = []
    for synset in reversed(SYNSETS):
        inner = Path(root) / "inner.tar"
        write_tar(inner, synset_images(synset))
        outer.append((f"{synset}.tar", inner.read_bytes()))
        inner.unlink()
    write_tar(Path(root) / "ILSVRC2012_img_train.tar", outer)
    numbers = range(len(VAL_SYNSETS), 0, -1)
    val = [(val_name(number), jpeg(val_name(number))) for number in numbers]
    write_tar(Path(root) / "ILSVRC2012_img_val.tar", val)
    imagenet_devkit(root)
    return imagenet_adapter()


def imagenet_v2(root, *, names=None, folder="imagenetv2-matched-frequency-format-val"):
    """Write 12 class folders called by number, two images each; `names` gives other names."""
    synsets = tuple(f"n{10_000_000 + label:08d}" for label in range(12))
    for label in range(12):
        called = names[label] if names else str(label)
        for number in range(2):
            path = Path(root) / folder / called / f"{label}-{number}.jpeg"
            write(path, jpeg(f"v2 {label} {number}"))
    info = replace(V2_MATCHED.info, num_classes=12, counts={"test": 24})
    return replace(V2_MATCHED, info=info, synset_names=synsets)


REAL_ANSWERS = ((2,), (), (3, 1), (1,), (0, 2, 3), (), (0,), (3,))  # of validation images 1 to 8


def imagenet_real(root, *, flat=True):
    imagenet_val(root, flat=flat)
    return replace(
        REAL,
        info=replace(REAL.info, num_classes=4, counts={"test": 6}),
        num_images=8,
        synset_names=SYNSETS,
        answers=REAL_ANSWERS,
    )


# By address

HUB_NAMES = ("ant", "bee", "cat")


def parquet(path, images, labels, *, names=HUB_NAMES, image="image", label="label", struct=True):
    """Write a parquet file as the hub does, with its metadata."""
    import pyarrow
    import pyarrow.parquet

    path.parent.mkdir(parents=True, exist_ok=True)
    cells = [{"bytes": data, "path": None} for data in images] if struct else list(images)
    columns = {image: cells}
    features = {image: {"_type": "Image"}}
    for name, values in {label: labels}.items() if not isinstance(label, dict) else label.items():
        columns[name] = list(values)
        features[name] = {"names": list(names), "_type": "ClassLabel"} if names else {}
    table = pyarrow.table(columns)
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    pyarrow.parquet.write_table(table.replace_schema_metadata(metadata), path, row_group_size=4)


def hub_folder(root):
    """Write two training shards, validation and test, and return the address."""
    place = Path(root) / "hub" / "data"
    for split, count, shards in (("train", 12, 2), ("validation", 3, 1), ("test", 6, 1)):
        for shard in range(shards):
            rows = range(shard, count, shards)
            parquet(
                place / f"{split}-{shard:05d}-of-{shards:05d}.parquet",
                [png(f"{split} {row}") for row in rows],
                [row % 3 for row in rows],
            )
    return f"hf:{Path(root) / 'hub'}"


def shards(root, *, split="train", count=12, per_shard=4, start=0):
    """Write WebDataset shards and return their folder."""
    place = Path(root) / "shards"
    for shard in range(count // per_shard):
        members = []
        for row in range(shard * per_shard, (shard + 1) * per_shard):
            key = f"{split}{start + row:06d}"
            members += [(f"{key}.cls", str(row % 3).encode()), (f"{key}.jpg", jpeg(key))]
        write_tar(place / f"bugs-{split}-{shard:04d}.tar", members)
    write(place / "classnames.txt", "ant\nbee\ncat\n")
    return place


def shard_address(root):
    shards(root)
    place = shards(root, split="test", count=4)
    return f"wds:{place}/bugs-{{train-{{0000..0002}},test-0000}}.tar"


def table(root, name="table.csv"):
    lines = ["path,label,split"]
    for split, count in (("train", 9), ("test", 6)):
        for row in range(count):
            write(Path(root) / "images" / f"{split}{row}.png", png(f"{split} {row}"))
            lines.append(f"images/{split}{row}.png,{HUB_NAMES[row % 3]},{split}")
    write(Path(root) / name, "\n".join(lines) + "\n")
    return str(Path(root) / name)
