"""Accuracy over groups of classes against loops, and single classes against scikit-learn."""

import numpy as np
import pytest
from sklearn.metrics import (
    average_precision_score,
    cohen_kappa_score,
    confusion_matrix,
    matthews_corrcoef,
    precision_recall_fscore_support,
    recall_score,
    roc_auc_score,
)

from deit_transfer.analysis.class_groups import (
    group_top1,
    has_hierarchy,
    long_tail,
    shot_of,
    super_categories,
)
from deit_transfer.analysis.per_class import (
    average_scores,
    class_scores,
    confusion,
    worst_mistakes,
)
from deit_transfer.analysis.statistics import wilson_interval

NAMES = ("ant", "bee", "cat", "dog", "elk", "fox")
INSECTS_AND_BEASTS = ("insect", "insect", "beast", "beast", "beast", "beast")


def decided(num: int = 300) -> tuple[np.ndarray, np.ndarray]:
    """Decisions and labels of which about two thirds agree; the last class is never a label."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 5, num)
    decisions = np.where(rng.random(num) < 0.6, labels, rng.integers(0, 6, num))
    decisions[:7] = -1  # unreadable
    return decisions, labels


@pytest.mark.parametrize(
    ("images", "shot"), [(0, "few"), (19, "few"), (20, "medium"), (100, "medium"), (101, "many")]
)
def test_the_groups_have_the_literatures_edges(images: int, shot: str) -> None:
    assert shot_of(images) == shot


def test_each_class_weighs_the_same_in_its_group() -> None:
    decisions, labels = decided()
    found = long_tail(decisions, labels, [500, 101, 100, 20, 19, 3])
    for name, classes in {"many": [0, 1], "medium": [2, 3], "few": [4]}.items():
        rates = [100 * np.mean(decisions[labels == k] == k) for k in classes]
        assert found[name].accuracy == pytest.approx(np.mean(rates))
        assert found[name].classes == len(classes)  # "fox" has no test image and does not count
        assert found[name].images == np.isin(labels, classes).sum()


def test_a_group_without_test_images_has_no_accuracy() -> None:
    found = long_tail([0, 1], [0, 1], [500, 500])
    assert found["few"] == (0, 0, None)
    assert found["many"].accuracy == 100


def test_a_decision_within_the_super_category_is_right_there() -> None:
    decisions, labels = decided()
    rows = {row.name: row for row in super_categories(decisions, labels, INSECTS_AND_BEASTS)}
    for name, classes in {"insect": [0, 1], "beast": [2, 3, 4, 5]}.items():
        own = np.isin(labels, classes)
        assert rows[name].group_top1 == pytest.approx(100 * np.isin(decisions[own], classes).mean())
        assert rows[name].top1 == pytest.approx(100 * (decisions == labels)[own].mean())
        assert rows[name].group_top1 > rows[name].top1
    group = np.array([*INSECTS_AND_BEASTS, "unreadable"])
    expected = 100 * (group[decisions] == group[labels]).mean()
    assert group_top1(list(rows.values())) == pytest.approx(expected)


def test_a_class_of_unknown_super_category_is_never_right() -> None:
    (row,) = super_categories([0, 1], [0, 0], ["", ""])
    assert row.group_top1 == 0
    assert row.top1 == 50


@pytest.mark.parametrize(
    ("names", "divided"),
    [((), False), (("a", "a"), False), (("a", "b"), False), (("a", "b", "b"), True)],
)
def test_a_hierarchy_has_several_groups_of_several_classes(names, divided) -> None:
    assert has_hierarchy(names) is divided


def test_the_report_on_classes_is_scikit_learns() -> None:
    decisions, labels = decided()
    rows = class_scores(decisions, labels, NAMES)
    expected = precision_recall_fscore_support(labels, decisions, labels=range(5), zero_division=0)
    assert [row.name for row in rows] == list(NAMES[:5])
    found = np.array([[row.precision, row.recall, row.f1, row.images] for row in rows]).T
    assert found[:3] == pytest.approx(100 * np.array(expected[:3]))
    assert found[3].tolist() == expected[3].tolist()


def test_ranking_and_specificity_are_scikit_learns() -> None:
    decisions, labels = decided()
    rng = np.random.default_rng(0)
    probabilities = rng.dirichlet(np.ones(len(NAMES)), size=len(labels))
    probabilities[np.arange(len(labels)), labels] += 0.1
    for number, row in enumerate(class_scores(decisions, labels, NAMES, probabilities)):
        of_class, given = labels == number, decisions == number
        assert row.specificity == pytest.approx(100 * recall_score(~of_class, ~given), abs=1e-9)
        ranked = probabilities[:, number]
        assert row.auc == pytest.approx(100 * roc_auc_score(of_class, ranked), abs=1e-9)
        average_precision = average_precision_score(of_class, ranked)
        assert row.average_precision == pytest.approx(100 * average_precision, abs=1e-9)
        low, high = row.recall_ci95
        assert low < row.recall < high or row.recall in (0, 100)
        interval = wilson_interval(int((of_class & given).sum()), row.images)
        assert row.recall_ci95 == (interval.low, interval.high)


def test_averages_are_scikit_learns() -> None:
    decisions, labels = decided()
    found = average_scores(decisions, labels)
    # the last class is given and never a label, and some images are unreadable
    for average, classes in (("macro", range(5)), ("weighted", range(5)), ("micro", None)):
        expected = precision_recall_fscore_support(
            labels, decisions, labels=classes, average=average, zero_division=0
        )
        assert getattr(found, average) == pytest.approx([100 * x for x in expected[:3]], abs=1e-9)
    assert found.micro == pytest.approx([100 * np.mean(decisions == labels)] * 3)
    assert found.balanced_accuracy == pytest.approx(found.macro[1])
    assert found.kappa == pytest.approx(cohen_kappa_score(labels, decisions), abs=1e-9)
    assert found.mcc == pytest.approx(matthews_corrcoef(labels, decisions), abs=1e-9)


def test_what_cannot_be_said_of_one_class_alone_is_none() -> None:
    (row,) = class_scores([0, 0], [0, 0], ["cat"], np.ones((2, 1)))
    assert (row.specificity, row.auc, row.average_precision) == (None, None, None)
    assert row.specificity_ci95 is None
    assert average_scores([0, 0], [0, 0]).kappa == 1
    never = class_scores([0, 0], [0, 1], ["cat", "dog"])[1]
    assert (never.precision, never.precision_ci95, never.auc) == (0, None, None)


def test_a_class_called_accuracy_is_a_class() -> None:
    rows = class_scores([0, 1, 1], [0, 1, 0], ["accuracy", "macro avg"])
    assert [(row.name, row.recall) for row in rows] == [("accuracy", 50), ("macro avg", 100)]


def test_the_confusion_matrix_counts_true_by_given() -> None:
    decisions, labels = decided()
    found = confusion(decisions, labels, NAMES)
    assert found.class_names == NAMES  # "fox" is given, though never true
    assert (found.counts == confusion_matrix(labels, decisions, labels=range(6))).all()
    assert found.counts.sum() == 293  # the unreadable ones have no column
    assert found.counts[5].sum() == 0


def test_the_worst_mistakes_come_first() -> None:
    labels = np.repeat([0, 1, 2], [10, 10, 5])
    decisions = labels.copy()
    decisions[:4] = 2
    decisions[10:13] = 0
    found = worst_mistakes(confusion(decisions, labels, NAMES), most=5)
    assert found == [("ant", "cat", 4, 40.0), ("bee", "ant", 3, 30.0)]
