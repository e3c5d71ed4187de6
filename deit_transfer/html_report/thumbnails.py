"""Thumbnails that a page carries in itself as data URIs."""

import base64
import io
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

LONGEST_SIDE = 128
JPEG_QUALITY = 82
DIMMEST = 0.3  # of the light, where nothing is attended to


@dataclass(frozen=True, kw_only=True)
class Thumbnail:
    """A picture as a data URI, with its width and height in pixels.

    `coarse` says that it has fewer pixels than it is shown with.
    """

    source: str
    width: int
    height: int
    coarse: bool


def thumbnail(pixels: NDArray[np.uint8], *, longest: int = LONGEST_SIDE) -> Thumbnail:
    """Return a picture that is no larger than it is shown; a small one is kept as it is.

    Args:
        pixels: (H, W, 3).
        longest: Its longer side at the most, in pixels.
    """
    from PIL import Image

    image = Image.fromarray(np.ascontiguousarray(pixels))
    coarse = max(image.size) <= longest // 2
    if max(image.size) > longest:
        scale = longest / max(image.size)
        width, height = (max(1, round(side * scale)) for side in image.size)
        image = image.resize((width, height), Image.Resampling.LANCZOS)
    content = io.BytesIO()
    if coarse:
        # few pixels are few bytes even unpacked, and JPEG would smear them
        image.save(content, "PNG", optimize=True)
    else:
        image.save(content, "JPEG", quality=JPEG_QUALITY)
    kind = "image/png" if coarse else "image/jpeg"
    return Thumbnail(
        source=data_uri(content.getvalue(), kind=kind),
        width=image.width,
        height=image.height,
        coarse=coarse,
    )


def spotlight(pixels: NDArray[np.uint8], weights: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Return a picture that keeps light and color where the weights are high, and dims the rest.

    Args:
        pixels: (H, W, 3).
        weights: (h, w), finite; the highest is shown in full light, the lowest in the least.
    """
    from PIL import Image

    height, width = pixels.shape[:2]
    low, high = float(weights.min()), float(weights.max())
    shares = Image.fromarray(((weights - low) / ((high - low) or 1.0)).astype(np.float32))
    light = np.asarray(shares.resize((width, height), Image.Resampling.BICUBIC))  # (H, W)
    light = np.clip(light, 0, 1)[..., None]
    gray = pixels.mean(axis=2, keepdims=True)
    shown = light * pixels + (1 - light) * (DIMMEST * gray)
    return np.rint(np.clip(shown, 0, 255)).astype(np.uint8)


def data_uri(content: bytes, *, kind: str) -> str:
    """Return a file's bytes as an address that holds them."""
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"
