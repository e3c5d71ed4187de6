"""Probes of frozen features: logistic regression and nearest neighbors.

Both choose their settings on validation images and are then given those too; the test features
are only ever asked for answers. Know no network, file or dataset.

Shapes: N images, D dimensions, K classes.
"""

import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.floating[Any]]
Labels = NDArray[np.int64]
Votes = Literal["plain", "weighted"]

# Inverse strengths C of the penalty, from strong to weak, then closer around the best: the search
# of Radford et al. 2021 (CLIP, arXiv 2103.00020, appendix A.3), which ranges over 1e-6 to 1e6.
COARSE_GRID = tuple(10.0**power for power in range(-6, 7))
FINE_FACTORS = (10.0**-0.5, 10.0**0.5)
# a guess: so many steps in a row that are no better end the search, as the weak penalties that
# follow take the most iterations
PATIENCE = 2
MAX_ITERATIONS = 1000  # of L-BFGS; the same source

# Caron et al. 2021 (DINO, arXiv 2104.14294, appendix F) weigh 20 votes by exp(similarity / 0.07),
# after Wu et al. 2018 (arXiv 1805.01978).
NEIGHBORS = (1, 3, 5, 10, 20, 50, 100, 200)
TEMPERATURE = 0.07

# below every class that was seen in training
UNSEEN_MARGIN = 50.0


@dataclass(frozen=True, kw_only=True)
class LogisticProbe:
    """Logistic regression on frozen features: `logits` (N, K) float32 on the test images.

    `val_top1` in percent and `val_loss` belong to `c`, fitted without the validation images;
    `tried` has the top-1 of every C. `at_edge`: the best C is the last of the grid.
    `converged`: the final fit.
    """

    logits: NDArray[np.float32]
    c: float
    val_top1: float
    val_loss: float
    tried: dict[float, float]
    at_edge: bool
    converged: bool


@dataclass(frozen=True, kw_only=True)
class NeighborProbe:
    """Nearest neighbors on frozen features: `votes` (N, K) float32 on the test images.

    `val_top1` in percent belongs to `k` and `weighing`, before the validation images joined.
    """

    votes: NDArray[np.float32]
    k: int
    weighing: Votes
    val_top1: float


def logistic_probe(
    *,
    train: Values,
    train_labels: Labels,
    val: Values,
    val_labels: Labels,
    test: Values,
    num_classes: int,
    tick: Callable[[], None] | None = None,
) -> LogisticProbe:
    """Fit multinomial logistic regression with the penalty that validation prefers.

    Every dimension is scaled to mean 0 and variance 1 on the images that are fitted. Of equally
    good penalties the one with the smaller validation loss is taken. The final fit is on
    training and validation images together.

    Args:
        train: (N, D) features.
        train_labels: (N,) in 0..K-1, at least two classes.
        val: (N, D) features.
        val_labels: (N,) in 0..K-1.
        test: (N, D) features.
        num_classes: K.
        tick: Called before each fit; may raise to stop.
    """
    tried = _tried_penalties(train, train_labels, val, val_labels, num_classes, tick)
    best = _best(tried)
    if tick is not None:
        tick()
    together, scale = _scaled(np.concatenate([train, val]))
    model = _fitted(_new_regression(best), together, np.concatenate([train_labels, val_labels]))
    return LogisticProbe(
        logits=_logits(model, scale(test), num_classes),
        c=best,
        val_top1=tried[best][0],
        val_loss=-tried[best][1],
        tried={c: top1 for c, (top1, _) in sorted(tried.items())},
        at_edge=not COARSE_GRID[0] < best < COARSE_GRID[-1],
        converged=int(model.n_iter_.max()) < MAX_ITERATIONS,
    )


def neighbor_probe(
    *,
    train: Values,
    train_labels: Labels,
    val: Values,
    val_labels: Labels,
    test: Values,
    num_classes: int,
) -> NeighborProbe:
    """Classify by a vote of the nearest training images in cosine similarity.

    Plain votes count one each, weighted ones exp(similarity / 0.07); of equally good settings
    the fewest neighbors are taken, and plain votes before weighted ones. The validation images
    then join the training images.

    Args:
        train: (N, D) features.
        train_labels: (N,) in 0..K-1.
        val: (N, D) features.
        val_labels: (N,) in 0..K-1.
        test: (N, D) features.
        num_classes: K.
    """
    sizes = [k for k in NEIGHBORS if k <= len(train)]
    labels, similarity = _neighbors(train, train_labels, val, most=sizes[-1])
    found: list[tuple[float, int, Votes]] = []
    for k in sizes:
        for weighing in _ways(k):
            votes = count_votes(
                labels[:, :k], similarity[:, :k], weighing=weighing, num_classes=num_classes
            )
            found.append((_top1(votes, val_labels), k, weighing))
    val_top1, k, weighing = max(found, key=lambda setting: setting[0])
    labels, similarity = _neighbors(
        np.concatenate([train, val]), np.concatenate([train_labels, val_labels]), test, most=k
    )
    return NeighborProbe(
        votes=count_votes(labels, similarity, weighing=weighing, num_classes=num_classes),
        k=k,
        weighing=weighing,
        val_top1=val_top1,
    )


def count_votes(
    labels: Labels, similarity: Values, *, weighing: Votes, num_classes: int
) -> NDArray[np.float32]:
    """Return each class's share of the votes (N, K); rows sum to 1.

    Args:
        labels: (N, k) classes of the neighbors.
        similarity: (N, k) cosines in -1..1.
        weighing: See `neighbor_probe`.
        num_classes: K.
    """
    if weighing == "plain":
        weights = np.ones_like(similarity, dtype=np.float64)
    else:
        # the nearest has weight 1: only ratios count, and none overflows
        highest = similarity.max(axis=1, keepdims=True)
        weights = np.exp((similarity - highest).astype(np.float64) / TEMPERATURE)
    votes = np.zeros((len(labels), num_classes))
    rows = np.arange(len(labels))[:, None]
    np.add.at(votes, (rows, labels), weights)
    return (votes / votes.sum(axis=1, keepdims=True)).astype(np.float32)


def _tried_penalties(
    train: Values,
    train_labels: Labels,
    val: Values,
    val_labels: Labels,
    num_classes: int,
    tick: Callable[[], None] | None,
) -> dict[float, tuple[float, float]]:
    """Return (validation top-1, minus validation loss) by C: coarse, then around the best."""
    scaled, scale = _scaled(train)
    held_out = scale(val)
    # each fit starts from the one before: the optimum does not depend on it, the time does
    model = _new_regression(COARSE_GRID[0], warm_start=True)
    tried: dict[float, tuple[float, float]] = {}

    def attempt(grid: Iterable[float]) -> None:
        worse = 0
        for c in grid:
            if tick is not None:
                tick()
            model.C = c
            logits = _logits(_fitted(model, scaled, train_labels), held_out, num_classes)
            score = _score(logits, val_labels)
            worse = worse + 1 if tried and score <= max(tried.values()) else 0
            tried[c] = score
            if worse == PATIENCE:
                return

    attempt(COARSE_GRID)
    attempt([_best(tried) * factor for factor in FINE_FACTORS])
    return tried


def _best(tried: dict[float, tuple[float, float]]) -> float:
    return max(tried, key=lambda c: tried[c])


def _score(logits: NDArray[np.float32], labels: Labels) -> tuple[float, float]:
    """Return top-1 in percent, and minus the mean loss to break ties."""
    exact = logits.astype(np.float64)
    normalizer = np.logaddexp.reduce(exact, axis=1)
    loss = float(np.mean(normalizer - exact[np.arange(len(labels)), labels]))
    return _top1(logits, labels), -loss


def _top1(answers: NDArray[np.float32], labels: Labels) -> float:
    return 100.0 * float(np.mean(answers.argmax(axis=1) == labels))


def _new_regression(c: float, *, warm_start: bool = False) -> Any:
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(C=c, max_iter=MAX_ITERATIONS, warm_start=warm_start)


def _fitted(model: Any, features: Values, labels: Labels) -> Any:
    from sklearn.exceptions import ConvergenceWarning

    with warnings.catch_warnings():
        # the last fit's convergence is reported; in between, validation judges
        warnings.simplefilter("ignore", ConvergenceWarning)
        return model.fit(features, labels)


def _logits(model: Any, features: Values, num_classes: int) -> NDArray[np.float32]:
    """Return logits (N, K); classes that were not fitted lie far below all others."""
    margins = model.decision_function(features)
    if margins.ndim == 1:
        # two classes have one margin; the softmax of [0, m] is its logistic
        margins = np.stack([np.zeros_like(margins), margins], axis=1)
    logits = np.repeat(margins.min(axis=1, keepdims=True) - UNSEEN_MARGIN, num_classes, axis=1)
    logits[:, model.classes_] = margins
    return logits.astype(np.float32)


def _scaled(features: Values) -> tuple[Values, Callable[[Values], Values]]:
    from sklearn.preprocessing import StandardScaler

    scaler = StandardScaler()
    # float64: L-BFGS stalls in the rounding of float32 where the penalty is weak
    return scaler.fit_transform(features.astype(np.float64)), lambda more: scaler.transform(
        more.astype(np.float64)
    )


def _neighbors(known: Values, labels: Labels, asked: Values, *, most: int) -> tuple[Labels, Values]:
    """Return the labels and cosines (N, most) of the nearest, the nearest first."""
    from sklearn.neighbors import NearestNeighbors
    from sklearn.preprocessing import normalize

    # of vectors of length 1, |a - b|^2 = 2 - 2 cos: the same order, by scikit-learn's fast path
    search = NearestNeighbors(n_neighbors=most, algorithm="brute", metric="euclidean")
    distances, places = search.fit(normalize(known)).kneighbors(normalize(asked))
    return labels[places], 1.0 - distances**2 / 2.0


def _ways(k: int) -> tuple[Votes, ...]:
    return ("plain",) if k == 1 else ("plain", "weighted")
