"""Time the training pipeline on one thread, from a stored image to pixels of the network's size.

    python benchmarks/pipeline.py
    python benchmarks/pipeline.py --images TREE/train

Both sides crop, flip and apply RandAugment (rand-m9-mstd0.5-inc1), and give uint8: timm's
transform in the form that its prefetching loader takes, ours as our loader takes it. Normalizing
and erasing come later on both. Photographs are decoded from JPEG each time by both. Small images
are decoded each time by timm, and by us once for the whole run, as the program does; the line
`ours, decoding each time` shows what is left without that.
"""

import argparse
import io
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import torch
from machine import Work, print_rates, time_in_turns
from PIL import Image

from deit_transfer.data.pipeline.decode import decode_rgb
from deit_transfer.data.pipeline.transforms import sample_seed, train_transform

POLICY = "rand-m9-mstd0.5-inc1"
MEAN = (0.485, 0.456, 0.406)
SCALE = (0.08, 1.0)
PHOTO_SIZE = (500, 375)  # ImageNet's usual width and height


def made_up_jpegs(count: int, size: tuple[int, int]) -> list[bytes]:
    """Return JPEG files of smooth color fields with some grain, about as hard as photographs."""
    generator = np.random.default_rng(0)
    files = []
    for _ in range(count):
        coarse = generator.integers(0, 256, (12, 16, 3)).astype(np.uint8)
        fields = cv2.resize(coarse, size, interpolation=cv2.INTER_CUBIC).astype(np.int16)
        grain = generator.integers(-12, 13, fields.shape)
        pixels = np.clip(fields + grain, 0, 255).astype(np.uint8)
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "JPEG", quality=90)
        files.append(file.getvalue())
    return files


def stored(folder: Path | None, count: int, size: tuple[int, int]) -> list[bytes]:
    """Return image files from a folder, evenly spread over it; made-up ones where there is none."""
    if folder is None:
        return made_up_jpegs(count, size)
    paths = sorted(path for path in folder.rglob("*") if path.suffix in {".jpg", ".jpeg", ".png"})
    return [path.read_bytes() for path in paths[:: max(1, len(paths) // count)][:count]]


def timm_pipeline(*, folder: Path | None, count: int, size: tuple[int, int], pixels: int) -> Work:
    """Prepare timm's transform over all files."""
    from timm.data import create_transform

    torch.set_num_threads(1)
    files = stored(folder, count, size)
    transform = create_transform(
        pixels,
        is_training=True,
        use_prefetcher=True,
        scale=SCALE,
        auto_augment=POLICY,
        interpolation="bicubic",
        mean=MEAN,
    )

    def work() -> None:
        for file in files:
            transform(Image.open(io.BytesIO(file)).convert("RGB"))

    return work


def our_pipeline(
    *, folder: Path | None, count: int, size: tuple[int, int], pixels: int, decode: bool
) -> Work:
    """Prepare our transform over all files; decoded beforehand unless `decode`."""
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    files = stored(folder, count, size)
    decoded = [decode_rgb(file, apply_exif=False) for file in files]
    transform = train_transform(
        resolution=pixels,
        scale=SCALE,
        hflip=0.5,
        policy="randaugment",
        randaugment=POLICY,
        color_jitter=0.0,
        mean=MEAN,
    )

    def work() -> None:
        for index, file in enumerate(files):
            image = decode_rgb(file, apply_exif=False) if decode else decoded[index]
            transform(image, sample_seed(0, 0, index, 0))

    return work


def compare(title: str, *, small: bool, count: int, rounds: int, **shared: object) -> None:
    """Time both sides on one kind of image."""
    sides = {"timm": partial(timm_pipeline, count=count, **shared)}
    sides["ours"] = partial(our_pipeline, count=count, decode=not small, **shared)
    if small:
        sides["ours, decoding each time"] = partial(
            our_pipeline, count=count, decode=True, **shared
        )
    seconds = time_in_turns(sides, rounds=rounds)
    print_rates(title, seconds, images=count, ours="ours")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=Path, help="Folder of small images; made up if left out")
    parser.add_argument("--photographs", type=Path, help="Folder of photographs; made up likewise")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--count", type=int, default=400, help="Images a round")
    given = parser.parse_args()
    for pixels in (32, 112, 224):
        compare(
            f"Training pipeline, small images (32 x 32) to {pixels} px, one thread",
            small=True,
            count=given.count,
            rounds=given.rounds,
            folder=given.images,
            size=(32, 32),
            pixels=pixels,
        )
    width, height = PHOTO_SIZE
    compare(
        f"Training pipeline, photographs ({width} x {height} JPEG) to 224 px, one thread",
        small=False,
        count=given.count,
        rounds=given.rounds,
        folder=given.photographs,
        size=PHOTO_SIZE,
        pixels=224,
    )


if __name__ == "__main__":
    main()
