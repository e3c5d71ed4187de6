"""Mistakes of a run with their images, from its stored predictions.

Shapes: N images, K classes.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deit_transfer.data.dataset import ImageSet
from deit_transfer.data.pipeline.decode import read_rgb
from deit_transfer.engine.inference import MIN_PROBABILITY
from deit_transfer.errors import CheckpointError, ImageError
from deit_transfer.html_report.page_values import MistakePicture
from deit_transfer.html_report.thumbnails import Thumbnail, thumbnail
from deit_transfer.runs.folder import PREDICTIONS_FILE, RESULT_FILE, RunFolder
from deit_transfer.runs.predictions import UNDECIDED, StoredPredictions, read_predictions


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """The test images that a run was scored on, or why they cannot be shown."""

    test: ImageSet | None
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class PagePredictions:
    """A run's stored predictions: probabilities (N, K), decisions and labels (N,)."""

    stored: StoredPredictions
    class_names: tuple[str, ...]
    probabilities: NDArray[np.float32]
    decisions: NDArray[np.int64]

    @property
    def labels(self) -> NDArray[np.int64]:
        return self.stored.labels

    @property
    def wrong(self) -> NDArray[np.int64]:
        """Return the places of the images that were read and answered wrongly."""
        return np.flatnonzero((self.decisions != self.labels) & (self.decisions != UNDECIDED))

    def given(self) -> NDArray[np.float32]:
        """Return the probability of each image's answer (N,), 0 where there is none."""
        return np.nan_to_num(self.probabilities, nan=0.0).max(axis=1)


def read_page_predictions(folder: RunFolder) -> PagePredictions:
    """Read a finished run's answers on its test images.

    Raises:
        CheckpointError: The run has not finished.
        DataError: Its predictions are gone or damaged.
    """
    if not folder.read_json(RESULT_FILE):
        raise CheckpointError(
            f"the run in {folder} has no result yet",
            hint="Let it finish, or continue it with --resume; runs show shows how far it is",
        )
    stored = read_predictions(folder.path / PREDICTIONS_FILE)
    return PagePredictions(
        stored=stored,
        class_names=folder.class_names(),
        probabilities=stored.probabilities(),
        decisions=stored.decisions(),
    )


def worst_mistake_pictures(
    answers: PagePredictions, pictures: Pictures, count: int
) -> list[MistakePicture]:
    """Return the wrongly answered images of the highest loss, highest first."""
    true = answers.probabilities[np.arange(len(answers.labels)), answers.labels]  # (N,)
    order = answers.wrong[np.argsort(true[answers.wrong], kind="stable")]
    return _mistakes(answers, order[:count], pictures)


def most_confident_mistakes(
    answers: PagePredictions, pictures: Pictures, count: int
) -> list[MistakePicture]:
    """Return the wrongly answered images of the highest probability, highest first."""
    order = answers.wrong[np.argsort(-answers.given()[answers.wrong], kind="stable")]
    return _mistakes(answers, order[:count], pictures)


def _mistakes(
    answers: PagePredictions, places: NDArray[np.int64], pictures: Pictures
) -> list[MistakePicture]:
    names = [str(answers.stored.ids[place]) for place in places]
    found = find_mistake_images(pictures.test, set(names))
    mistakes = []
    for place, name in zip(places.tolist(), names, strict=True):
        label, decision = answers.labels[place], answers.decisions[place]
        true = float(answers.probabilities[place, label])
        mistakes.append(
            MistakePicture(
                name=name,
                true=answers.class_names[label],
                given=answers.class_names[decision],
                given_percent=100 * float(answers.probabilities[place, decision]),
                true_percent=100 * true,
                loss=-float(np.log(max(true, MIN_PROBABILITY))),
                picture=_picture(pictures.test, found.get(name), int(label)),
            )
        )
    return mistakes


def find_mistake_images(images: ImageSet | None, names: set[str]) -> dict[str, int]:
    """Return where the named images stand in the split; those that are gone are left out."""
    if images is None:
        return {}
    return {name: place for place, name in enumerate(images.ids) if name in names}


def _picture(images: ImageSet | None, place: int | None, label: int) -> Thumbnail | None:
    # an image that has another label now is another image
    if images is None or place is None or int(images.labels[place]) != label:
        return None
    try:
        return thumbnail(read_rgb(images, place))
    except ImageError:
        return None
