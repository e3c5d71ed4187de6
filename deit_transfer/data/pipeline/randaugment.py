"""RandAugment: parse the policy string, draw operations and their magnitudes.

It follows the same distribution as timm's; `operations` holds the pixels' part. Nothing here
draws from a global generator: the caller hands in the stream.
"""

import math
import random
import re
from collections.abc import Callable
from typing import NamedTuple

from deit_transfer.data.pipeline import image_ops
from deit_transfer.data.pipeline.image_ops import Color, Pixels
from deit_transfer.errors import UsageError

# timm counts magnitudes in tenths of each operation's range (auto_augment.py, _LEVEL_DENOM).
FULL_MAGNITUDE = 10.0


class RandAugmentPolicy(NamedTuple):
    """A parsed RandAugment string; `magnitude_std` may be infinite (uniform magnitude)."""

    magnitude: int = 10
    num_operations: int = 2
    probability: float = 0.5
    magnitude_std: float = 0.0
    magnitude_max: float = FULL_MAGNITUDE
    increasing: bool = False


def parse_policy(text: str) -> RandAugmentPolicy:
    """Read a policy in timm's notation, such as "rand-m9-mstd0.5-inc1".

    Args:
        text: "rand" and dash-separated sections: m magnitude, n operations per image, p
            probability of each, mstd standard deviation of the magnitude (over 100: uniform
            between 0 and m), mmax largest magnitude, inc 1 for operations that grow with it.

    Raises:
        UsageError: A section is unknown, malformed, out of range or given twice. timm skips
            some of these in silence.

    Source: timm/data/auto_augment.py, rand_augment_transform.
    """
    head, *sections = text.split("-")
    if head != "rand":
        raise _malformed(text, f"it starts with {head!r}, not 'rand'")
    found: dict[str, float] = {}
    for section in sections:
        match = re.fullmatch(r"(mstd|mmax|inc|m|n|p)(\d+(?:\.\d+)?)", section)
        if match is None:
            raise _malformed(text, f"section {section!r} is none of m9, n2, p0.5, mstd0.5, mmax10")
        key, value = match[1], float(match[2])
        if key in found:
            raise _malformed(text, f"section {key!r} is given twice")
        if key != "p" and key != "mstd" and not value.is_integer():
            raise _malformed(text, f"{key!r} must be a whole number, not {match[2]}")
        found[key] = value
    if found.get("p", 0.5) > 1 or found.get("inc", 0) > 1:
        raise _malformed(text, "p must lie in 0..1 and inc be 0 or 1")
    spread = found.get("mstd", 0.0)
    return RandAugmentPolicy(
        magnitude=int(found.get("m", FULL_MAGNITUDE)),
        num_operations=int(found.get("n", 2)),
        probability=found.get("p", 0.5),
        magnitude_std=math.inf if spread > 100 else spread,
        magnitude_max=found.get("mmax", FULL_MAGNITUDE) or FULL_MAGNITUDE,
        increasing=bool(found.get("inc", 0)),
    )


def _malformed(text: str, reason: str) -> UsageError:
    return UsageError(
        f"RandAugment policy {text!r} cannot be read: {reason}",
        hint="The paper's policy is rand-m9-mstd0.5-inc1",
    )


class RandAugment:
    """Applies a few randomly chosen operations to an image, as timm's RandAugment does.

    Args:
        policy: How many operations, how likely and how strong.
        fill: Color shown outside a moved image.
    """

    def __init__(self, *, policy: RandAugmentPolicy, fill: Color) -> None:
        self.policy = policy
        self.fill = fill
        self.table = INCREASING if policy.increasing else ORIGINAL
        self._names = tuple(self.table)

    def __call__(self, image: Pixels, stream: random.Random) -> Pixels:
        """Return `image` (H, W, 3) augmented by draws from `stream`; the input is not changed."""
        # timm draws the operations first, with replacement, then decides on each.
        for name in stream.choices(self._names, k=self.policy.num_operations):
            if stream.random() < self.policy.probability:
                image = self.apply(name, image, self.draw_magnitude(stream), stream)
        return image

    def draw_magnitude(self, stream: random.Random) -> float:
        """Draw one operation's magnitude in 0..magnitude_max."""
        magnitude, spread = float(self.policy.magnitude), self.policy.magnitude_std
        if math.isinf(spread):
            magnitude = stream.uniform(0, magnitude)
        elif spread > 0:
            magnitude = stream.gauss(magnitude, spread)
        return max(0.0, min(magnitude, self.policy.magnitude_max))

    def apply(self, name: str, image: Pixels, magnitude: float, stream: random.Random) -> Pixels:
        """Apply the operation `name` at `magnitude`; its direction is drawn from `stream`."""
        operation = self.table[name]
        if operation.strength is None:
            return operation.function(image, 0.0, self.fill)
        return operation.function(image, operation.strength(magnitude, stream), self.fill)


# --- strengths: (magnitude in 0..10, stream) -> strength -------------------------------------
# Ranges from timm/data/auto_augment.py, the *_level_to_arg functions.


def _either_sign(value: float, stream: random.Random) -> float:
    return -value if stream.random() > 0.5 else value


def _rotation(magnitude: float, stream: random.Random) -> float:
    return _either_sign(magnitude / FULL_MAGNITUDE * 30.0, stream)


def _shear(magnitude: float, stream: random.Random) -> float:
    return _either_sign(magnitude / FULL_MAGNITUDE * 0.3, stream)


def _translation(magnitude: float, stream: random.Random) -> float:
    return _either_sign(magnitude / FULL_MAGNITUDE * 0.45, stream)


def _enhance_increasing(magnitude: float, stream: random.Random) -> float:
    return max(0.1, 1.0 + _either_sign(magnitude / FULL_MAGNITUDE * 0.9, stream))


def _enhance(magnitude: float, _stream: random.Random) -> float:
    return magnitude / FULL_MAGNITUDE * 1.8 + 0.1


def _posterize(magnitude: float, _stream: random.Random) -> float:
    return int(magnitude / FULL_MAGNITUDE * 4)


def _posterize_increasing(magnitude: float, stream: random.Random) -> float:
    return 4 - _posterize(magnitude, stream)


def _solarize(magnitude: float, _stream: random.Random) -> float:
    return min(256, int(magnitude / FULL_MAGNITUDE * 256))


def _solarize_increasing(magnitude: float, stream: random.Random) -> float:
    return 256 - _solarize(magnitude, stream)


def _solarize_add(magnitude: float, _stream: random.Random) -> float:
    return min(128, int(magnitude / FULL_MAGNITUDE * 110))


class Operation(NamedTuple):
    """An operation, and how its strength follows from the magnitude (None: it has none)."""

    function: Callable[[Pixels, float, Color], Pixels]
    strength: Callable[[float, random.Random], float] | None


_SHARED = {
    "AutoContrast": Operation(image_ops.auto_contrast, None),
    "Equalize": Operation(image_ops.equalize, None),
    "Invert": Operation(image_ops.invert, None),
    "Rotate": Operation(image_ops.rotate, _rotation),
    "SolarizeAdd": Operation(image_ops.solarize_add, _solarize_add),
    "ShearX": Operation(image_ops.shear_x, _shear),
    "ShearY": Operation(image_ops.shear_y, _shear),
    "TranslateXRel": Operation(image_ops.translate_x, _translation),
    "TranslateYRel": Operation(image_ops.translate_y, _translation),
}

# By timm's names: _RAND_TRANSFORMS and _RAND_INCREASING_TRANSFORMS.
ORIGINAL: dict[str, Operation] = {
    **_SHARED,
    "Posterize": Operation(image_ops.posterize, _posterize),
    "Solarize": Operation(image_ops.solarize, _solarize),
    "Color": Operation(image_ops.color, _enhance),
    "Contrast": Operation(image_ops.contrast, _enhance),
    "Brightness": Operation(image_ops.brightness, _enhance),
    "Sharpness": Operation(image_ops.sharpness, _enhance),
}
INCREASING: dict[str, Operation] = {
    **_SHARED,
    "PosterizeIncreasing": Operation(image_ops.posterize, _posterize_increasing),
    "SolarizeIncreasing": Operation(image_ops.solarize, _solarize_increasing),
    "ColorIncreasing": Operation(image_ops.color, _enhance_increasing),
    "ContrastIncreasing": Operation(image_ops.contrast, _enhance_increasing),
    "BrightnessIncreasing": Operation(image_ops.brightness, _enhance_increasing),
    "SharpnessIncreasing": Operation(image_ops.sharpness, _enhance_increasing),
}
