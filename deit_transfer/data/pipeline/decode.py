"""Decode an image file's bytes to RGB pixels, the same way for every dataset.

It never repairs: a truncated or foreign file raises, it is not shown half gray. Nothing here
resizes, and no global setting of Pillow is read into or changed.
"""

import errno
import functools
import io
import warnings
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from deit_transfer.data.dataset import ImageSet
from deit_transfer.errors import ImageError, ResourceError

# Twice Pillow's own MAX_IMAGE_PIXELS, the size from which Pillow refuses to open an image as a
# decompression bomb; above the 108 MP of today's phones, about 0.5 GB of pixels.
MAX_PIXELS = 178_956_970

# What Pillow may try; a closed list because other readers (EPS, WMF) start outside programs.
# A file is recognized by its content, never by its extension.
# TGA is left out: it has no signature, so that any damaged file may pass for one.
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "PPM", "WEBP", "TIFF", "AVIF", "JPEG2000", "DIB")

# What integer gray of more than 8 bits may mean by white: 8, 10, 12, 14 and 16 bits in use
GRAY_RANGES = (255, 1023, 4095, 16383, 65535)
FULL_RANGE = GRAY_RANGES[-1]
GRAY_SAMPLE = 64

BACKGROUND = (255, 255, 255)  # shown through transparent pixels

# MPO is what phones call a JPEG with a preview beside the picture: no animation.
_JPEG = ("JPEG", "MPO")
_JPEG_START = b"\xff\xd8\xff"

JpegDecoder = Callable[[bytes], NDArray[np.uint8]]

_EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)

_EXIF_ORIENTATION = 0x0112

# EXIF orientation (TIFF 6.0, page 36) -> what turns stored pixels (H, W, 3) upright.
_UPRIGHT: dict[int, Callable[[NDArray[np.uint8]], NDArray[np.uint8]]] = {
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
    8: lambda a: np.rot90(a, 1),
}

_MISTAKEN = {
    b"<!doctype html": "an HTML page, not an image: its download was refused",
    b"<html": "an HTML page, not an image: its download was refused",
    b"version https://git-lfs": "a Git LFS pointer, not an image: `git lfs pull` fetches it",
    b"ftypheic": "a HEIC photo, which cannot be read: export it as JPEG",
    b"ftypheix": "a HEIC photo, which cannot be read: export it as JPEG",
}


class _View(NamedTuple):
    """How an image is decoded; see `decode_rgb`."""

    apply_exif: bool
    gray_white: int
    max_pixels: int


class Decoded(NamedTuple):
    """Decoded pixels (H, W, 3) uint8, the kind of file, and what was done to it."""

    pixels: NDArray[np.uint8]
    format: str
    mode: str
    notes: tuple[str, ...]


def read_rgb(images: ImageSet, index: int, *, max_pixels: int = MAX_PIXELS) -> NDArray[np.uint8]:
    """Read and decode image `index` of a split.

    Args:
        images: The split; its `apply_exif` says whether photos are turned upright.
        index: Position in the split.
        max_pixels: Larger images count as unreadable.

    Returns:
        Pixels (H, W, 3) uint8; possibly read-only, and shared with the split.

    Raises:
        ImageError: The file is gone or cannot be decoded; the message names its path.
        ResourceError: This process has no files or memory left to open it with.
    """
    try:
        data = images.read(index)
    except OSError as error:
        reason = error.strerror or str(error)
        if error.errno in _EXHAUSTED:  # says nothing about the image
            raise ResourceError(
                f"cannot read {images.where(index)}: {reason}",
                hint="Try fewer --workers, or a higher limit of open files (ulimit -n)",
            ) from error
        raise ImageError(f"cannot read {images.where(index)}: {reason}", hint=_HINT) from error
    if isinstance(data, np.ndarray):
        return data
    return decode_rgb(
        data,
        apply_exif=images.apply_exif,
        gray_white=images.gray_white,
        max_pixels=max_pixels,
        where=images.where(index),
    )


def decode_rgb(
    data: bytes,
    *,
    apply_exif: bool,
    gray_white: int = FULL_RANGE,
    max_pixels: int = MAX_PIXELS,
    where: str = "the image",
) -> NDArray[np.uint8]:
    """Decode an image file to RGB; sound JPEG files by torchvision, all others by Pillow.

    Args:
        data: The whole file.
        apply_exif: Turn the picture upright as its EXIF orientation says.
        gray_white: The value that is white in integer gray of more than 8 bits.
        max_pixels: Larger images count as unreadable.
        where: The file's name, for the message.

    Returns:
        Pixels (H, W, 3) uint8, possibly read-only. Transparency is laid on white, 16-bit gray is
        scaled and not clamped, of an animation the first frame is taken.

    Raises:
        ImageError: The data is empty, truncated, too large or no image.
    """
    view = _View(apply_exif, gray_white, max_pixels)
    return _decode(data, view, where=where, fast=True).pixels


def decode_image(
    data: bytes,
    *,
    apply_exif: bool,
    gray_white: int = FULL_RANGE,
    max_pixels: int = MAX_PIXELS,
    where: str = "the image",
) -> Decoded:
    """Decode like `decode_rgb`, by Pillow alone; tell format, mode and what was done to it."""
    return _decode(data, _View(apply_exif, gray_white, max_pixels), where=where, fast=False)


def gray_range(images: ImageSet) -> int:
    """Return the value that is white in these images where they are gray of more than 8 bits.

    Cameras and scanners store 10, 12 or 14 bits in files of 16. The largest value in a sample of
    the images, rounded up to such a number of bits, says how many are used; 65535 where no image
    of the sample is deep gray, and where none can be read.
    """
    places = np.unique(np.linspace(0, len(images) - 1, GRAY_SAMPLE).astype(np.int64))
    highest = max((_highest_gray(images, int(place)) for place in places), default=0)
    return next((white for white in GRAY_RANGES if 0 < highest <= white), FULL_RANGE)


def _highest_gray(images: ImageSet, index: int) -> int:
    """Return the largest value of a deep gray image; 0 for any other, and for one that is bad."""
    try:
        data = images.read(index)
        if isinstance(data, np.ndarray) or data.startswith(_JPEG_START):
            return 0
        with warnings.catch_warnings(), Image.open(io.BytesIO(data), formats=_readable()) as image:
            warnings.simplefilter("ignore")
            deep = image.mode.startswith("I;16") or image.mode == "I"
            if not deep or image.width * image.height > MAX_PIXELS:
                return 0
            values = np.asarray(image)
            return int(values.max()) if values.min() >= 0 else 0
    except Exception:
        return 0  # said where it is decoded to be used


def _decode(data: bytes, view: "_View", *, where: str, fast: bool) -> Decoded:
    if not data:
        raise _image_error(where, "the file is empty (0 bytes)")
    # Looked up out here: a torchvision that cannot be imported says nothing about the image.
    decode_jpeg = _jpeg_decoder() if fast and data.startswith(_JPEG_START) else None
    try:
        # Pillow warns of odd metadata, torch of bytes that cannot be written to; the pixels are
        # what counts, and they raise when bad.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(data), formats=_readable()) as image:
                width, height = image.size
                if width * height > view.max_pixels:
                    raise _image_error(where, _too_large(width * height, view.max_pixels))
                jpeg = None if decode_jpeg is None else _jpeg_pixels(data, image, decode_jpeg)
                return _to_rgb(image, jpeg, view)
    except ImageError:
        raise
    except Image.DecompressionBombError as error:
        raise _image_error(where, str(error)) from error
    except MemoryError:
        raise
    except Exception as error:
        # Damaged files make Pillow's readers raise nearly anything: OSError, SyntaxError,
        # struct.error, ValueError, EOFError, OverflowError. All mean the same here.
        raise _image_error(where, _reason(data, error)) from error


@functools.cache
def _readable() -> tuple[str, ...]:
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)  # some depend on the build


def _to_rgb(image: Image.Image, jpeg: NDArray[np.uint8] | None, view: "_View") -> Decoded:
    """Turn an opened image, or the pixels (H, W, 3) of a JPEG decoded already, into RGB."""
    notes = ["first frame of an animation or stack"] if _has_frames(image) else []
    kind, mode = image.format or "", image.mode
    if jpeg is None:
        image.load()
    if jpeg is not None:
        pixels = jpeg
    elif mode.startswith("I;16") or mode in ("I", "F"):
        pixels = np.repeat(_gray_8_bit(image, view.gray_white)[..., None], 3, axis=2)  # (H, W, 3)
        notes.append("more than 8 bits a channel scaled to 8")
    elif image.has_transparency_data:
        rgba = image.convert("RGBA")
        ground = Image.new("RGBA", rgba.size, (*BACKGROUND, 255))
        pixels = np.asarray(Image.alpha_composite(ground, rgba).convert("RGB"))
        notes.append("transparency laid on white")
    else:
        pixels = np.asarray(image if mode == "RGB" else image.convert("RGB"))  # (H, W, 3)
    turn = _UPRIGHT.get(_orientation(image)) if view.apply_exif else None
    if turn is not None:
        pixels = np.ascontiguousarray(turn(pixels))
        notes.append("turned upright by its EXIF orientation")
    return Decoded(pixels, kind, mode, tuple(notes))


@functools.cache
def _jpeg_decoder() -> JpegDecoder:
    import torch  # here: seconds, which checking a folder and reading PNG files need not take
    from torchvision.io import ImageReadMode, decode_jpeg

    def decode(data: bytes) -> NDArray[np.uint8]:
        encoded = torch.from_numpy(np.frombuffer(data, np.uint8))
        return decode_jpeg(encoded, mode=ImageReadMode.RGB).permute(1, 2, 0).numpy()

    return decode


def _jpeg_pixels(
    data: bytes, image: Image.Image, decode_jpeg: JpegDecoder
) -> NDArray[np.uint8] | None:
    """Decode a JPEG to (H, W, 3) as Pillow does, bit for bit, in five sixths of its time.

    None where it is neither color nor gray, or has anything wrong: Pillow then says what is
    wrong, or reads it all the same.
    """
    if image.format not in _JPEG or image.mode not in ("RGB", "L"):
        return None
    try:
        return decode_jpeg(data)
    except (RuntimeError, AttributeError):  # the latter without its image extension
        return None


def _has_frames(image: Image.Image) -> bool:
    return image.format not in _JPEG and bool(getattr(image, "is_animated", False))


def _gray_8_bit(image: Image.Image, white: int) -> NDArray[np.uint8]:
    """Scale deep gray (H, W) to 8 bits, where Pillow would clamp it at 255 and show white.

    Integers up to 65535 are scaled so that `white` is 255, and higher ones are white too. Wider
    integers and floats carry no stated range: floats in 0..1 are taken as such, anything else is
    stretched from its own minimum and maximum. Values that are not finite become black.
    """
    values = np.asarray(image).astype(np.float64)  # (H, W)
    finite = np.isfinite(values)
    values = np.where(finite, values, 0.0)
    low, high = values.min(), values.max()
    if image.mode == "F" and low >= 0 and high <= 1:
        low, high = 0.0, 1.0
    elif image.mode != "F" and low >= 0 and high <= 65535:
        low, high = 0.0, float(white)
        values = np.minimum(values, high)
    scaled = (values - low) / max(high - low, np.finfo(np.float64).tiny) * 255
    return np.where(finite, np.rint(scaled), 0).astype(np.uint8)


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(_EXIF_ORIENTATION, 1))
    except Exception:
        return 1  # broken EXIF: show the picture as stored, as viewers do


def _too_large(pixels: int, max_pixels: int) -> str:
    return f"{pixels / 1e6:.1f} million pixels exceed the limit of {max_pixels / 1e6:.1f}"


def _reason(data: bytes, error: Exception) -> str:
    head = data[:64].lstrip().lower()
    for mark, meaning in _MISTAKEN.items():
        if head.startswith(mark) or head[4:].startswith(mark):
            return f"it is {meaning}"
    if isinstance(error, Image.UnidentifiedImageError):
        return "its content is no image format that can be read"
    return f"the file is damaged or cut short ({str(error) or type(error).__name__})"


_HINT = "`deit-transfer data check FOLDER` lists every image that cannot be read"


def _image_error(where: str, reason: str) -> ImageError:
    return ImageError(f"cannot decode {where}: {reason}", hint=_HINT)
