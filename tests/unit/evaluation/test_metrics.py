"""What is said of a split, on answers made by hand: several right labels, unreadable images."""

import math

import numpy as np
import pytest

from deit_transfer.evaluation.metrics import (
    SplitPredictions,
    Temperature,
    calibration_facts,
    fit,
    head_facts,
    long_tail_facts,
    per_class_facts,
    reliability_rows,
    super_category_facts,
)
from deit_transfer.runs.predictions import StoredPredictions

CLASSES = ("ant", "bee", "cat", "dog")


def scored(
    *, unreadable: tuple[int, ...] = (), right: np.ndarray | None = None
) -> SplitPredictions:
    """Two heads' answers on six images of four classes."""
    rng = np.random.default_rng(3)
    labels = np.array([0, 1, 2, 3, 0, 1])
    class_logits = rng.normal(size=(6, 4)).astype(np.float32)
    distill_logits = rng.normal(size=(6, 4)).astype(np.float32)
    class_logits[[0, 1, 2], [0, 1, 2]] += 4
    class_logits[list(unreadable)] = math.nan
    distill_logits[list(unreadable)] = math.nan
    stored = StoredPredictions(
        ids=np.array([f"image-{number}" for number in range(6)]),
        labels=labels,
        class_logits=class_logits,
        distill_logits=distill_logits,
    )
    return SplitPredictions(stored=stored, right=right)


def test_any_of_several_right_labels_is_right() -> None:
    single = scored()
    decisions = single.decisions()
    right = np.zeros((6, 4), bool)
    right[np.arange(6), decisions] = True
    right[:, 0] = True
    several = scored(right=right)
    assert head_facts(several, ("joint",))["joint"]["top1"] == 100
    assert head_facts(single, ("joint",))["joint"]["top1"] < 100
    assert several.labels().tolist() == decisions.tolist()
    assert {row["recall"] for row in per_class_facts(several, CLASSES)["per_class"]} == {100}


def test_an_unreadable_image_is_wrong_and_says_nothing_of_confidence() -> None:
    whole, damaged = scored(), scored(unreadable=(0,))
    before, after = (head_facts(one, ("joint",))["joint"] for one in (whole, damaged))
    assert after["top1"] == pytest.approx(before["top1"] - 100 / 6)
    assert calibration_facts(damaged, None)["num_images"] == 5
    assert math.isfinite(calibration_facts(damaged, None)["ece"])
    rows = super_category_facts(damaged, ("insect", "insect", "beast", "beast"))
    assert rows is not None
    insects = next(row for row in rows["groups"] if row["name"] == "insect")
    assert insects["images"] == 4
    assert insects["group_top1"] <= 75
    nothing = scored(unreadable=tuple(range(6)))
    assert calibration_facts(nothing, None)["ece"] is None
    assert fit(nothing, fitted_on="nothing") is None


def test_a_temperature_changes_the_scaled_figures_only() -> None:
    one = scored()
    plain = calibration_facts(one, None)
    mended = calibration_facts(one, Temperature(value=2.0, fitted_on="3 others"))
    assert mended["ece"] == plain["ece"]
    assert mended["nll_scaled"] != plain["nll"]
    assert mended["fitted_on"] == "3 others"
    same = calibration_facts(one, Temperature(value=1.0, fitted_on="3 others"))
    assert same["nll_scaled"] == pytest.approx(plain["nll"], rel=1e-5)
    assert len(reliability_rows(one, Temperature(value=2.0, fitted_on=""))) == 2


def test_without_training_counts_or_a_hierarchy_there_are_no_groups() -> None:
    assert long_tail_facts(scored(), None) is None
    assert super_category_facts(scored(), ()) is None
    assert super_category_facts(scored(), ("", "", "", "")) is None
    tail = long_tail_facts(scored(), np.array([200, 50, 50, 3]))
    assert tail is not None
    assert {name: row["images"] for name, row in tail.items()} == {
        "many": 2,
        "medium": 3,
        "few": 1,
    }
