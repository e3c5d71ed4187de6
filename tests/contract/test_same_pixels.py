"""One image is the same pixels wherever it is read from: folder, table, parquet or shards."""

import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from deit_transfer.data.catalog import load_dataset
from deit_transfer.data.dataset import ImageSet
from deit_transfer.data.pipeline.decode import decode_rgb, read_rgb

CLASSES = ("cat", "owl")


def sideways_photo(seed: int) -> bytes:
    """A JPEG as phones write it: lying, with an orientation that turns it upright."""
    exif = Image.Exif()
    exif[0x112] = 6
    pixels = np.random.default_rng(seed).integers(0, 256, (8, 12, 3), np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=95, exif=exif.tobytes())
    return stream.getvalue()


PHOTOS = {
    f"{name}-{i}": sideways_photo(10 * k + i) for k, name in enumerate(CLASSES) for i in (0, 1)
}


def as_folder(place: Path) -> str:
    for split in ("train", "test"):
        for key, data in PHOTOS.items():
            path = place / "tree" / split / key.split("-")[0] / f"{key}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
    return str(place / "tree")


def as_table(place: Path) -> str:
    as_folder(place)
    rows = [
        f"{split}/{key.split('-')[0]}/{key}.jpg,{key.split('-')[0]},{split}"
        for split in ("train", "test")
        for key in PHOTOS
    ]
    table = place / "tree" / "images.csv"
    table.write_text("\n".join(["path,label,split", *rows, ""]))
    return str(table)


def as_parquet(place: Path) -> str:
    (place / "pq").mkdir()
    for split in ("train", "test"):
        rows = {
            "image": [{"bytes": data, "path": f"{key}.jpg"} for key, data in PHOTOS.items()],
            "label": [key.split("-")[0] for key in PHOTOS],
        }
        pq.write_table(pa.table(rows), place / "pq" / f"{split}.parquet")
    return f"hf:{place / 'pq'}"


def as_shards(place: Path) -> str:
    (place / "wds").mkdir()
    for split in ("train", "test"):
        with tarfile.open(place / "wds" / f"{split}-0000.tar", "w") as shard:
            for key, data in PHOTOS.items():
                label = str(CLASSES.index(key.split("-")[0])).encode()
                for name, content in ((f"{key}.jpg", data), (f"{key}.cls", label)):
                    member = tarfile.TarInfo(name)
                    member.size = len(content)
                    shard.addfile(member, io.BytesIO(content))
    (place / "wds" / "classnames.txt").write_text("\n".join(CLASSES))
    return f"wds:{place / 'wds'}"


def by_content(images: ImageSet) -> list[tuple[int, bytes]]:
    pixels = [read_rgb(images, index) for index in range(len(images))]
    assert {array.shape for array in pixels} == {(12, 8, 3)}  # upright
    return sorted(
        (int(label), array.tobytes()) for label, array in zip(images.labels, pixels, strict=False)
    )


@pytest.mark.parametrize("write", [as_folder, as_table, as_parquet, as_shards])
def test_photos_are_turned_upright_wherever_they_lie(
    tmp_path: Path, write: Callable[[Path], str]
) -> None:
    expected = sorted(
        (CLASSES.index(key.split("-")[0]), decode_rgb(data, apply_exif=True).tobytes())
        for key, data in PHOTOS.items()
    )
    splits = load_dataset(write(tmp_path)).splits
    assert by_content(splits["train"]) == by_content(splits["test"]) == expected


GRAY = {
    "owl": np.arange(0, 256, 8, dtype=np.uint16),
    "cat": np.arange(255, -1, -8, dtype=np.uint16),
}


@pytest.mark.parametrize(("factor", "white"), [(1, 255), (4, 1023), (16, 4095), (257, 65535)])
def test_the_bits_that_are_used_decide_what_is_white(
    tmp_path: Path, factor: int, white: int
) -> None:
    """10 and 12 bits in files of 16, as microscopes and X-ray machines write them."""
    for split in ("train", "test"):
        for name, row in GRAY.items():
            folder = tmp_path / "scans" / split / name
            folder.mkdir(parents=True)
            # the test split alone would look like fewer bits
            values = np.tile(row * factor, (4, 1)) // (1 if split == "train" else 5)
            for i in range(2):
                Image.fromarray(values.astype(np.uint16)).save(folder / f"{i}.png")
    dataset = load_dataset(str(tmp_path / "scans"))
    for split, dark in (("train", 1), ("test", 5)):
        images = dataset.splits[split]
        for index in range(len(images)):
            shown = read_rgb(images, index)[0, :, 0].astype(float)
            expected = GRAY[dataset.class_names[images.labels[index]]] / dark
            np.testing.assert_allclose(shown, expected, atol=1.5)
    told = [note for note in dataset.notes if "shown as white" in note]
    assert len(told) == (factor != 257)
    assert all(f"{white} is shown as white" in note for note in told)
