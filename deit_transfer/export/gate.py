"""The gate: an exported file decides as the run does on its images, or it is not kept.

Shapes: N images, K classes.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deit_transfer.analysis.statistics import Difference, mcnemar
from deit_transfer.errors import CheckpointError

# two classes this close (in probability) are a tie: float32 rounds differently in every runtime
TIE = 1e-4
# of a file that resizes by itself, to within one gray level: a guess, 100 such pixels move less
RESIZED_TIE = 1e-2
MOST_APART = 1e-3
RESIZED_MOST_APART = 2e-2
MOST_LISTED = 5

Probabilities = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """How the answers of a file compare with the run's on N images.

    `ties` and `differing` are positions of images decided differently, within a tie or beyond;
    `most_apart` is the largest difference of a probability.
    """

    num_images: int
    ties: tuple[int, ...]
    differing: tuple[int, ...]
    most_apart: float

    @property
    def num_equal(self) -> int:
        """The number of images with the same decision."""
        return self.num_images - len(self.ties) - len(self.differing)


def compare_answers(ours: Probabilities, theirs: Probabilities, *, tie: float) -> Agreement:
    """Compare the decisions of probabilities (N, K); answers that are not finite differ."""
    rows = np.arange(len(ours))
    mine, other = ours.argmax(axis=1), theirs.argmax(axis=1)
    finite = np.isfinite(theirs).all(axis=1)
    lead = ours[rows, mine] - ours[rows, other]
    apart = (mine != other) | ~finite
    tied = apart & finite & (lead <= tie)
    gaps = np.abs(ours - theirs).max(axis=1)
    return Agreement(
        num_images=len(ours),
        ties=tuple(np.flatnonzero(tied).tolist()),
        differing=tuple(np.flatnonzero(apart & ~tied).tolist()),
        most_apart=float(np.nan_to_num(gaps, nan=1.0).max(initial=0.0)),
    )


def check_agreement(found: Agreement, *, ids: list[str], what: str, resizes: bool) -> None:
    """Refuse a float32 file that decides or answers differently.

    Raises:
        CheckpointError: With the images that differ, or by how much the probabilities do.
    """
    if found.differing:
        shown = ", ".join(ids[index] for index in found.differing[:MOST_LISTED])
        more = " ..." if len(found.differing) > MOST_LISTED else ""
        raise CheckpointError(
            f"the {what} file decides {len(found.differing)} of {found.num_images} images "
            f"differently from the run, and was removed: {shown}{more}",
            hint=_HINT,
        )
    limit = RESIZED_MOST_APART if resizes else MOST_APART
    if found.most_apart > limit:
        raise CheckpointError(
            f"the {what} file's probabilities differ from the run's by up to "
            f"{found.most_apart:.2g} (at most {limit:g} is rounding), and it was removed",
            hint=_HINT,
        )


def check_loss(
    ours: Probabilities, theirs: Probabilities, labels: NDArray[np.int64], *, tolerance: float
) -> Difference:
    """Return the change of top-1 in points with its interval; refuse a loss beyond tolerance.

    Raises:
        CheckpointError: More is lost than `tolerance` points.
    """
    change = mcnemar(theirs.argmax(axis=1) == labels, ours.argmax(axis=1) == labels)
    if not np.isfinite(theirs).all() or -change.mean > tolerance:
        raise CheckpointError(
            f"8 bits lose {-change.mean:.2f} points of top-1 on {len(labels)} images (95% "
            f"interval {-change.high:.2f} to {-change.low:.2f}), more than the {tolerance:g} "
            "allowed, and the file was removed",
            hint="Allow more with --tolerance, or use --to onnx, which loses nothing",
        )
    return change


_HINT = (
    "Please open an issue with the versions that deit-transfer runs show RUN lists; "
    "--to timm needs no other runtime"
)
