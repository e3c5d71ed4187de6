"""Image operations on uint8 arrays, the building blocks of the augmentation policies.

Each equals the Pillow operation that timm's policies call by the same name, to within one level
(rotation to within a few, by a slightly different cubic kernel), in a fraction of the time.
Nothing here is random.

Legend: H, W the image's height and width; images are (H, W, 3) uint8 RGB and are never changed
in place; `fill` is the color that a moved image uncovers. Operations share one signature,
(image, strength, fill), so that a policy can hold them in a table.
"""

import math
from collections.abc import Callable

import cv2
import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from torch.nn import functional

Pixels = NDArray[np.uint8]
Color = tuple[int, int, int]

_LEVELS = np.arange(256)
# PIL/ImageFilter.py, SMOOTH: the blurred end of the sharpness scale.
_SMOOTH = np.array([[1, 1, 1], [1, 5, 1], [1, 1, 1]], np.float32) / 13
# Pillow cuts fractions off where OpenCV rounds; subtracting just under a half makes it cut, too.
_CUT = -0.499


def auto_contrast(image: Pixels, _strength: float, _fill: Color) -> Pixels:
    """Stretch each channel to 0..255."""

    def table(plane: Pixels) -> Pixels | None:
        low, high, _, _ = cv2.minMaxLoc(plane)
        if high <= low:
            return None
        scale = 255.0 / (high - low)
        return np.clip(_LEVELS * scale - low * scale, 0, 255).astype(np.uint8)

    return _by_channel(image, table)


def equalize(image: Pixels, _strength: float, _fill: Color) -> Pixels:
    """Flatten each channel's histogram, by Pillow's integer arithmetic."""

    def table(plane: Pixels) -> Pixels | None:
        counts = cv2.calcHist([plane], [0], None, [256], [0, 256]).ravel().astype(np.int64)
        step = (counts.sum() - counts[np.flatnonzero(counts)[-1]]) // 255
        if step == 0:
            return None
        return np.minimum((step // 2 + np.cumsum(counts) - counts) // step, 255).astype(np.uint8)

    return _by_channel(image, table)


def invert(image: Pixels, _strength: float, _fill: Color) -> Pixels:
    """Turn each level v into 255 - v."""
    return np.invert(image)


def posterize(image: Pixels, bits: float, _fill: Color) -> Pixels:
    """Keep the highest `bits` bits of each level; 0 gives black."""
    kept = max(0, min(int(bits), 8))
    return np.bitwise_and(image, np.uint8((0xFF00 >> kept) & 0xFF))


def solarize(image: Pixels, threshold: float, _fill: Color) -> Pixels:
    """Invert the levels from `threshold` upwards."""
    # OpenCV asks for more than the threshold, and the levels are whole numbers.
    _, from_threshold = cv2.threshold(image, math.ceil(threshold) - 1, 255, cv2.THRESH_BINARY)
    return cv2.bitwise_xor(image, from_threshold)


def solarize_add(image: Pixels, amount: float, _fill: Color) -> Pixels:
    """Add `amount` to the levels below 128."""
    _, added = cv2.threshold(image, 127, int(amount), cv2.THRESH_BINARY_INV)
    return cv2.add(image, added)


def color(image: Pixels, factor: float, _fill: Color) -> Pixels:
    """Move between gray (factor 0), the image (1) and beyond."""
    gray = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    return cv2.addWeighted(gray, 1 - factor, image, factor, _CUT)


def contrast(image: Pixels, factor: float, _fill: Color) -> Pixels:
    """Move between the image's mean gray (factor 0), the image (1) and beyond."""
    mean = int(cv2.mean(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY))[0] + 0.5)
    return _blend_table(image, float(mean), factor)


def brightness(image: Pixels, factor: float, _fill: Color) -> Pixels:
    """Move between black (factor 0), the image (1) and beyond."""
    return _blend_table(image, 0.0, factor)


def sharpness(image: Pixels, factor: float, _fill: Color) -> Pixels:
    """Move between a blurred image (factor 0), the image (1) and beyond; edge pixels stay."""
    if min(image.shape[:2]) < 3:
        return image
    kernel = _SMOOTH * (1 - factor)
    kernel[1, 1] += factor
    sharper = cv2.filter2D(image, -1, kernel, delta=_CUT)
    sharper[[0, -1]] = image[[0, -1]]
    sharper[:, [0, -1]] = image[:, [0, -1]]
    return sharper


def rotate(image: Pixels, degrees: float, fill: Color) -> Pixels:
    """Rotate counter-clockwise about the center."""
    height, width = image.shape[:2]
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    # Output pixel -> source pixel, both counted from the image's center; (W - 1) / 2 because
    # OpenCV puts whole numbers at the centers of pixels.
    x, y = (width - 1) / 2, (height - 1) / 2
    matrix = np.array([[cos, -sin, x - cos * x + sin * y], [sin, cos, y - sin * x - cos * y]])
    # Pillow does not blend at the edges: covered is the pixel whose sampling point lies inside.
    size, inverse = (width, height), cv2.WARP_INVERSE_MAP
    inside = np.full((height, width), 255, np.uint8)
    covered = cv2.warpAffine(inside, matrix, size, flags=cv2.INTER_NEAREST | inverse)
    # Two more pixels all around hold every tap of a covered pixel.
    wider = cv2.copyMakeBorder(image, 2, 2, 2, 2, cv2.BORDER_REPLICATE)
    turned = cv2.warpAffine(
        wider, matrix + np.array([0, 0, 2]), size, flags=cv2.INTER_CUBIC | inverse
    )
    return cv2.copyTo(turned, covered, _filled(image.shape, fill))


def shear_x(image: Pixels, factor: float, fill: Color) -> Pixels:
    """Shift each row by `factor` times its height in the image."""
    return _shift_rows(image, (np.arange(image.shape[0]) + 0.5) * factor, fill)


def shear_y(image: Pixels, factor: float, fill: Color) -> Pixels:
    """Shift each column by `factor` times its place in the image."""
    return cv2.transpose(shear_x(cv2.transpose(image), factor, fill))


def translate_x(image: Pixels, fraction: float, fill: Color) -> Pixels:
    """Shift to the left by a fraction of the width."""
    return _shift(image, fraction * image.shape[1], fill)


def translate_y(image: Pixels, fraction: float, fill: Color) -> Pixels:
    """Shift upwards by a fraction of the height."""
    return cv2.transpose(translate_x(cv2.transpose(image), fraction, fill))


def resize(image: Pixels, height: int, width: int) -> Pixels:
    """Resize to (height, width, 3) by an antialiased cubic kernel: Pillow's BICUBIC, but faster.

    albumentations would leave out the antialiasing, and with it the likeness to evaluation.
    """
    if image.shape[:2] == (height, width):
        return image
    image = np.require(image, requirements=("C", "W"))  # torch warns of read-only memory
    h, w = image.shape[:2]
    # Stated strides: for a batch of one, only these tell torch that channels come last, which
    # takes a quarter of the time.
    batch = torch.from_numpy(image).as_strided((1, 3, h, w), (h * w * 3, 1, w * 3, 3))
    resized = functional.interpolate(batch, size=(height, width), mode="bicubic", antialias=True)
    return resized[0].permute(1, 2, 0).contiguous().numpy()  # (height, width, 3)


# --- the arithmetic behind them -------------------------------------------------------------


def _by_channel(image: Pixels, table: Callable[[Pixels], Pixels | None]) -> Pixels:
    planes = cv2.split(image)
    tables = [table(plane) for plane in planes]
    return cv2.merge(
        [
            plane if levels is None else cv2.LUT(plane, levels)
            for plane, levels in zip(planes, tables, strict=True)
        ]
    )


def _blend_table(image: Pixels, base: float, factor: float) -> Pixels:
    """Blend with one gray level in Pillow's arithmetic: float32, cut off, clipped."""
    levels = np.float32(base) + np.float32(factor) * (_LEVELS.astype(np.float32) - base)
    return cv2.LUT(image, np.clip(levels, 0, 255).astype(np.uint8))


def _shift(image: Pixels, shift: float, fill: Color) -> Pixels:
    """Sample at x + shift with Pillow's cubic kernel."""
    width, whole = image.shape[1], math.floor(shift)
    nearest = math.floor(shift + 0.5)
    first, last = max(0, -nearest), min(width, width - nearest)  # see _shift_rows on covered
    if first >= last:
        return _filled(image.shape, fill)
    # One more pixel at either end: the first tap of a covered pixel may lie that far outside.
    wider = cv2.copyMakeBorder(image, 0, 0, 1, 1, cv2.BORDER_REPLICATE)
    weights = _cubic_weights(np.array([shift - whole]))  # (1, 4)
    sampled = cv2.filter2D(
        wider, -1, weights, anchor=(1, 0), delta=_CUT, borderType=cv2.BORDER_REPLICATE
    )
    kept = sampled[:, 1 + whole + first : 1 + whole + last]
    return cv2.copyMakeBorder(kept, 0, 0, first, width - last, cv2.BORDER_CONSTANT, value=fill)


def _shift_rows(image: Pixels, shifts: NDArray[np.floating], fill: Color) -> Pixels:
    """Sample each row y at x + shifts[y] with Pillow's cubic kernel.

    OpenCV's warpAffine takes three times as long for the same, and has another kernel.
    """
    height, width = image.shape[:2]
    whole = np.floor(shifts).astype(np.int64)
    margin = int(np.abs(whole).max()) + 3
    padded = cv2.copyMakeBorder(image, 0, 0, margin, margin, cv2.BORDER_REPLICATE)
    starts = np.arange(height) * padded.shape[1] + margin - 1 + whole
    rows = sliding_window_view(padded.ravel(), 3 * (width + 3))[3 * starts]  # (H, 3 (W + 3))
    shifted = _weigh_taps(rows, _cubic_weights(shifts - whole)).reshape(image.shape)

    # Covered is the pixel whose sampling point, x + 0.5 + shift, lies within the image.
    inside = np.zeros(width + 2 * margin, np.uint8)
    inside[margin : margin + width] = 255
    nearest = np.floor(shifts + 0.5).astype(np.int64)
    covered = sliding_window_view(inside, width)[margin + nearest]  # (H, W)
    return cv2.copyTo(shifted, covered, _filled(image.shape, fill))


def _filled(shape: tuple[int, ...], fill: Color) -> Pixels:
    """Return an image of one color; np.full of a color takes forty times as long."""
    one = np.array([[fill]], np.uint8)
    return cv2.copyMakeBorder(one, 0, shape[0] - 1, 0, shape[1] - 1, cv2.BORDER_REPLICATE)


def _weigh_taps(rows: Pixels, weights: NDArray[np.float32]) -> Pixels:
    """Sum the four taps of each row (H, 3 (W + 3)) with that row's weights (H, 4)."""
    width = rows.shape[1] - 9
    taps = torch.from_numpy(rows).float()
    weight = torch.from_numpy(weights)
    total = taps[:, :width] * weight[:, :1]  # (H, 3 W)
    for k in (1, 2, 3):
        total.addcmul_(taps[:, 3 * k : 3 * k + width], weight[:, k : k + 1])
    return cv2.add(total.numpy(), _CUT, dtype=cv2.CV_8U)


def _cubic_weights(fraction: NDArray[np.floating]) -> NDArray[np.float32]:
    """Return the weights (H, 4) of the taps around each fraction (H,) in 0..1.

    Source: Pillow, src/libImaging/Geometry.c, BICUBIC (Keys' kernel with a = -1).
    """
    d = fraction
    taps = (-d * (1 - d) ** 2, 1 - 2 * d**2 + d**3, d + d**2 - d**3, -(d**2) * (1 - d))
    return np.stack(taps, axis=1).astype(np.float32)
