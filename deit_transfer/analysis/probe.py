"""Probes of frozen features: logistic regression and nearest neighbors.

Both choose their settings on the labeled images themselves, each classified by a fit that has not
seen it; the test features are only ever asked for answers. Know no network, file or dataset.

Shapes: N images, D dimensions, K classes.
"""

import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.floating[Any]]
Labels = NDArray[np.int64]
Votes = Literal["plain", "weighted"]
Fold = tuple[NDArray[np.int64], NDArray[np.int64]]  # indices that are fitted, and held out

# Inverse strengths C of the penalty, from strong to weak, then closer around the best: the search
# of Radford et al. 2021 (CLIP, arXiv 2103.00020, appendix A.3), which ranges over 1e-6 to 1e6.
COARSE_GRID = tuple(10.0**power for power in range(-6, 7))
FINE_FACTORS = (10.0**-0.5, 10.0**0.5)
# a guess: so many steps in a row that are no better end the search, as the weak penalties that
# follow take the most iterations
PATIENCE = 2
MAX_ITERATIONS = 1000  # of L-BFGS; the same source
LITTLE = 2_000_000  # numbers; a fit of 10,000 x 200 takes seconds
FOLDS = 5
# of so many images one fold has 200, whose accuracy is known to 3 points: the others only cost time
ONE_FOLD_ABOVE = 1000
# where no class has two images, nothing can be held out
C_WITHOUT_FOLDS = 1.0

# scikit-learn's guess where there are few images a class
MANY_CLASSES = "The number of unique classes is greater than 50%"

# Caron et al. 2021 (DINO, arXiv 2104.14294, appendix F) weigh 20 votes by exp(similarity / 0.07),
# after Wu et al. 2018 (arXiv 1805.01978).
NEIGHBORS = (1, 3, 5, 10, 20, 50, 100, 200)
TEMPERATURE = 0.07

# below every class that was seen in training
UNSEEN_MARGIN = 50.0


@dataclass(frozen=True, kw_only=True)
class LogisticProbe:
    """Logistic regression on frozen features: a linear head.

    `weight` (K, D) and `bias` (K,) float32 apply to the features as they are. `fold_top1` in
    percent and `fold_loss` are those of the `num_held_out` images of the folds at `c`, not numbers
    where there were none; `tried` has the top-1 of every C. `at_edge`: the best C is the last of
    the grid. `converged`: the final fit.
    """

    weight: NDArray[np.float32]
    bias: NDArray[np.float32]
    c: float
    fold_top1: float
    fold_loss: float
    num_held_out: int
    tried: dict[float, float]
    at_edge: bool
    converged: bool

    def logits(self, features: Values) -> NDArray[np.float32]:
        """Return the logits (N, K) of features (N, D)."""
        return (features.astype(np.float32) @ self.weight.T + self.bias).astype(np.float32)


@dataclass(frozen=True, kw_only=True)
class NeighborProbe:
    """Nearest neighbors on frozen features: `votes` (N, K) float32 on the test images.

    `fold_top1` in percent belongs to `k` and `weighing`: each labeled image by the others.
    """

    votes: NDArray[np.float32]
    k: int
    weighing: Votes
    fold_top1: float


def make_folds(labels: Labels) -> list[Fold]:
    """Return the folds that settings are chosen on: stratified, the same for the same labels.

    Five, or one of the five for more than 1,000 images; none where no class has two images.
    """
    from sklearn.model_selection import StratifiedKFold

    count = min(FOLDS, int(np.bincount(labels).max()))
    if count < 2:
        return []
    with warnings.catch_warnings():
        # of a class with fewer images than folds: those are held out in some of the folds
        warnings.filterwarnings("ignore", "The least populated class", UserWarning)
        warnings.filterwarnings("ignore", MANY_CLASSES, UserWarning)
        splitter = StratifiedKFold(count, shuffle=True, random_state=0)
        folds = list(splitter.split(np.zeros((len(labels), 1)), labels))
    usable = [fold for fold in folds if len(np.unique(labels[fold[0]])) > 1]
    return usable[:1] if len(labels) > ONE_FOLD_ABOVE else usable


def logistic_probe(
    features: Values,
    labels: Labels,
    *,
    num_classes: int,
    grid: Sequence[float] = COARSE_GRID,
    max_folds: int = FOLDS,
    tick: Callable[[], None] | None = None,
) -> LogisticProbe:
    """Fit multinomial logistic regression with the penalty that held-out folds prefer.

    Every dimension is scaled to mean 0 and variance 1 on the images that are fitted, which is
    then folded into the weights. Of equally good penalties the one with the smaller loss is
    taken. The final fit is on all images. A class without images is never answered.

    Args:
        features: (N, D).
        labels: (N,) in 0..K-1, at least two classes.
        num_classes: K.
        grid: The values of C, from small to large.
        max_folds: Use so many of the folds.
        tick: Called before each fit; may raise to stop.
    """
    folds = make_folds(labels)[:max_folds]
    tried = _tried_penalties(features, labels, num_classes, folds, grid, tick)
    best = max(tried, key=lambda c: tried[c]) if tried else C_WITHOUT_FOLDS
    if tick is not None:
        tick()
    scaled, mean, scale = _scaled(features)
    model = _fitted(_new_regression(best), scaled, labels)
    weight, bias = _head(model, num_classes)
    weight /= scale
    top1, negative_loss = tried.get(best, (float("nan"), float("nan")))
    return LogisticProbe(
        weight=weight.astype(np.float32),
        bias=(bias - weight @ mean).astype(np.float32),
        c=best,
        fold_top1=top1,
        fold_loss=-negative_loss,
        num_held_out=sum(len(held_out) for _, held_out in folds),
        tried={c: top1 for c, (top1, _) in sorted(tried.items())},
        at_edge=bool(tried) and not grid[0] < best < grid[-1],
        converged=int(model.n_iter_.max()) < MAX_ITERATIONS,
    )


def neighbor_probe(
    features: Values, labels: Labels, test: Values, *, num_classes: int
) -> NeighborProbe:
    """Classify by a vote of the nearest labeled images in cosine similarity.

    Plain votes count one each, weighted ones exp(similarity / 0.07); each labeled image, voted on
    by the others, chooses. Of equally good settings the fewest neighbors are taken, and plain
    votes before weighted ones.

    Args:
        features: (N, D), two images or more.
        labels: (N,) in 0..K-1.
        test: (M, D) features to classify.
        num_classes: K.
    """
    sizes = [k for k in NEIGHBORS if k < len(features)]
    others, similarity = _neighbors(features, labels, None, most=sizes[-1])
    found: list[tuple[float, int, Votes]] = []
    for k in sizes:
        for weighing in _ways(k):
            votes = count_votes(
                others[:, :k], similarity[:, :k], weighing=weighing, num_classes=num_classes
            )
            found.append((_top1(votes, labels), k, weighing))
    fold_top1, k, weighing = max(found, key=lambda setting: setting[0])
    nearest, similarity = _neighbors(features, labels, test, most=k)
    return NeighborProbe(
        votes=count_votes(nearest, similarity, weighing=weighing, num_classes=num_classes),
        k=k,
        weighing=weighing,
        fold_top1=fold_top1,
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
    features: Values,
    labels: Labels,
    num_classes: int,
    folds: Sequence[Fold],
    grid: Sequence[float],
    tick: Callable[[], None] | None,
) -> dict[float, tuple[float, float]]:
    """Return (top-1, minus the loss) on held-out folds by C: coarse, then around the best."""
    if not folds:
        return {}
    parts = []
    for fitted, held_out in folds:
        scaled, mean, scale = _scaled(features[fitted])
        parts.append((scaled, labels[fitted], (features[held_out] - mean) / scale))
    truth = np.concatenate([labels[held_out] for _, held_out in folds])
    # each fit starts from the one before: the optimum does not depend on it, the time does
    models = [_new_regression(grid[0], warm_start=True) for _ in folds]
    tried: dict[float, tuple[float, float]] = {}

    def attempt(values: Iterable[float]) -> None:
        worse = 0
        for c in values:
            answers = []
            for model, (scaled, fitted_labels, held_out) in zip(models, parts, strict=True):
                if tick is not None:
                    tick()
                model.C = c
                weight, bias = _head(_fitted(model, scaled, fitted_labels), num_classes)
                answers.append(held_out @ weight.T + bias)
            score = _score(np.concatenate(answers), truth)
            worse = worse + 1 if tried and score <= max(tried.values()) else 0
            tried[c] = score
            if worse == PATIENCE:
                return

    attempt(grid)
    best = max(tried, key=lambda c: tried[c])
    attempt([best * factor for factor in FINE_FACTORS])
    return tried


def _score(logits: Values, labels: Labels) -> tuple[float, float]:
    """Return top-1 in percent, and minus the mean loss to break ties."""
    normalizer = np.logaddexp.reduce(logits, axis=1)
    loss = float(np.mean(normalizer - logits[np.arange(len(labels)), labels]))
    return _top1(logits, labels), -loss


def _top1(answers: Values, labels: Labels) -> float:
    return 100.0 * float(np.mean(answers.argmax(axis=1) == labels))


def _new_regression(c: float, *, warm_start: bool = False) -> Any:
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(C=c, max_iter=MAX_ITERATIONS, warm_start=warm_start)


def _fitted(model: Any, features: Values, labels: Labels) -> Any:
    from sklearn.exceptions import ConvergenceWarning
    from threadpoolctl import threadpool_limits

    # threads that wait for each other take longer than one does on little, above all beside others
    threads = 1 if features.size < LITTLE else None
    with warnings.catch_warnings(), threadpool_limits(threads):
        # the last fit's convergence is reported; in between, the folds judge
        warnings.simplefilter("ignore", ConvergenceWarning)
        warnings.filterwarnings("ignore", MANY_CLASSES, UserWarning)
        return model.fit(features, labels)


def _head(model: Any, num_classes: int) -> tuple[Values, Values]:
    """Return weight (K, D) and bias (K,); classes that were not fitted lie far below all others."""
    weights, biases = model.coef_, model.intercept_
    if len(model.classes_) == 2:
        # two classes have one margin m; the softmax of [-m/2, m/2] is its logistic
        weights, biases = np.vstack([-weights, weights]) / 2, np.hstack([-biases, biases]) / 2
    weight = np.zeros((num_classes, weights.shape[1]))
    bias = np.full(num_classes, biases.min() - UNSEEN_MARGIN)
    weight[model.classes_], bias[model.classes_] = weights, biases
    return weight, bias


def _scaled(features: Values) -> tuple[Values, Values, Values]:
    """Return features at mean 0 and variance 1, and the mean and scale (D,) that made them so."""
    from sklearn.preprocessing import StandardScaler

    scaler = StandardScaler()
    # float64: L-BFGS stalls in the rounding of float32 where the penalty is weak
    scaled = scaler.fit_transform(features.astype(np.float64))
    return scaled, scaler.mean_, scaler.scale_


def _neighbors(
    known: Values, labels: Labels, asked: Values | None, *, most: int
) -> tuple[Labels, Values]:
    """Return the labels and cosines (N, most) of the nearest, the nearest first.

    Where nothing is asked, of the known images themselves, each among the others.
    """
    from sklearn.neighbors import NearestNeighbors
    from sklearn.preprocessing import normalize

    # of vectors of length 1, |a - b|^2 = 2 - 2 cos: the same order, by scikit-learn's fast path
    search = NearestNeighbors(n_neighbors=most, algorithm="brute", metric="euclidean")
    distances, places = search.fit(normalize(known)).kneighbors(
        None if asked is None else normalize(asked)
    )
    return labels[places], 1.0 - distances**2 / 2.0


def _ways(k: int) -> tuple[Votes, ...]:
    return ("plain",) if k == 1 else ("plain", "weighted")
