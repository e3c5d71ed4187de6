"""Accuracy over groups of classes against loops, and single classes against scikit-learn."""

import numpy as np
import pytest
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

from deit_transfer.analysis.class_groups import (
    group_top1,
    has_hierarchy,
    long_tail,
    shot_of,
    super_categories,
)
from deit_transfer.analysis.per_class import class_scores, confusion, worst_mistakes

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
