"""The exchange rate between labels: read off by hand from curves whose answers are known."""

import math

import numpy as np
import pytest
from scipy import stats

from deit_transfer.analysis.comparison import ArmRuns, arm_difference
from deit_transfer.analysis.label_efficiency import Size, exchange_rates
from deit_transfer.report.label_efficiency import exchange_sentences

NUM_IMAGES = 1000
NOISE = (-6, 0, 6)  # images, by seed: the spread of every arm


def arm(name: str, right: int, *, noise: tuple[int, ...] = NOISE) -> ArmRuns:
    """An arm that gets so many of 1000 images right on average, the easiest ones first."""
    correct = [np.arange(NUM_IMAGES) < right + extra for extra in noise]
    results = [{"seed": seed, "top1": 100 * array.mean()} for seed, array in enumerate(correct)]
    return ArmRuns(arm=name, results=results, correct=correct)


def sizes(ours: list[int], theirs: list[int], *, noise: tuple[int, ...] = (0, 6, -6)) -> list[Size]:
    labels = [10 * 10**place for place in range(len(ours))]
    return [
        Size(
            fraction=count / labels[-1],
            labels=count,
            arms={"ours": arm("ours", a, noise=noise), "theirs": arm("theirs", b)},
        )
        for count, a, b in zip(labels, ours, theirs, strict=True)
    ]


def rate_at(found: list[dict], labels: int) -> dict:
    return next(rate for rate in found if rate["labels"] == labels)


def test_better_than_all_labels_is_more_than_measured() -> None:
    found = exchange_rates(sizes([500, 900, 950], [200, 300, 600]), baseline="theirs")
    rate = rate_at(found, 100)
    assert rate["relation"] == "more_than"
    assert rate["equals_labels"] is None
    assert rate["equals_ci95"] == [None, None]
    a, b = np.array([90.0, 90.6, 89.4]), np.array([59.4, 60.0, 60.6])
    expected = stats.ttest_rel(a, b)
    assert rate["beaten"]["labels"] == 1000
    assert rate["beaten"]["p_value"] == pytest.approx(expected.pvalue)
    assert rate["beaten"]["delta_ci95"] == pytest.approx(list(expected.confidence_interval(0.95)))
    said = exchange_sentences(found)
    assert said == [
        "ours with 10% of the labels (100) matches theirs with more than 100% (1,000): it is "
        f"ahead of that by 30.0 points (95% interval {expected.confidence_interval(0.95).low:.1f}"
        f" to {expected.confidence_interval(0.95).high:.1f}, p < 0.001)."
    ]


def test_between_two_sizes_the_curve_is_read_on_a_logarithmic_axis() -> None:
    # at 10 labels ours is 40 points above theirs at 10, 20 below theirs at 100
    found = exchange_rates(sizes([600, 610, 620], [200, 800, 900]), baseline="theirs")
    rate = rate_at(found, 10)
    assert rate["relation"] == "about"
    assert rate["equals_labels"] == round(math.exp(math.log(10) + 40 / 60 * math.log(10)))
    half = stats.ttest_rel([60.0, 60.6, 59.4], [19.4, 20.0, 20.6]).confidence_interval(0.95)
    other = stats.ttest_rel([60.0, 60.6, 59.4], [79.4, 80.0, 80.6]).confidence_interval(0.95)
    low_share = half.low / (half.low - other.low)
    high_share = half.high / (half.high - other.high)
    expected = [round(10 * 10**share) for share in (low_share, high_share)]
    assert rate["equals_ci95"] == expected
    assert expected[0] < rate["equals_labels"] < expected[1]
    assert "with about 46 (95% interval" in exchange_sentences([rate])[0]


def test_a_lead_that_ends_in_doubt_is_at_least_so_much() -> None:
    found = exchange_rates(sizes([500, 600, 601], [200, 300, 598]), baseline="theirs")
    rate = rate_at(found, 100)
    assert rate["relation"] == "at_least"
    assert rate["beaten"]["labels"] == 100
    assert rate["equals_ci95"][0] is not None
    assert rate["equals_ci95"][1] is None
    said = exchange_sentences([rate])[0]
    assert "beats theirs with 10% (100)" in said
    assert "cannot be said" in said
    assert "match" not in said


def test_a_lead_over_fewer_labels_alone_is_called_no_more_than_that() -> None:
    found = exchange_rates(sizes([201, 501, 701], [200, 500, 700]), baseline="theirs")
    said = exchange_sentences(found[-1:])[0]
    assert "ours with 100% of the labels (1,000) beats theirs with 10% (100) by 20.1" in said
    assert "worth more than as many of theirs cannot be said" in said


def test_a_worse_arm_is_worth_no_more() -> None:
    found = exchange_rates(sizes([100, 110, 120], [300, 500, 700]), baseline="theirs")
    assert {rate["relation"] for rate in found} == {"less_than"}
    said = exchange_sentences(found)[0]
    assert "ours with 100% of the labels (1,000) is worth no more than 1% (10)" in said
    assert "ahead by 18.0 points" in said


def test_two_seeds_that_scatter_say_nothing() -> None:
    wide = [
        Size(
            fraction=labels / 1000,
            labels=labels,
            arms={
                "ours": arm("ours", 600, noise=(-200, 200)),
                "theirs": arm("theirs", right, noise=(-20, 20)),
            },
        )
        for labels, right in ((10, 300), (1000, 500))
    ]
    found = exchange_rates(wide, baseline="theirs")
    assert {rate["relation"] for rate in found} == {"unclear"}
    said = exchange_sentences(found)[0]
    assert "cannot be said" in said
    assert "chance" in said
    assert "beats" not in said
    assert "matches" not in said


def test_a_curve_that_falls_gives_no_number() -> None:
    found = exchange_rates(sizes([500, 500, 500, 500], [200, 700, 200, 700]), baseline="theirs")
    rate = rate_at(found, 10)
    assert rate["relation"] == "unclear"
    assert rate["equals_labels"] is None
    assert "more than once" in rate["reason"]


def test_one_classifier_for_all_seeds_is_held_against_each_seed() -> None:
    probe = ArmRuns(
        arm="probe",
        results=[{"seed": None, "top1": 70.0}],
        correct=[np.arange(NUM_IMAGES) < 700],
    )
    found = arm_difference(probe, arm("theirs", 500))
    expected = stats.ttest_1samp([70 - 49.4, 70 - 50.0, 70 - 50.6], 0)
    assert found.p_value == pytest.approx(expected.pvalue)
    assert (found.mean, found.n) == (pytest.approx(20.0), 3)


def test_a_soup_is_held_against_its_runs_image_by_image() -> None:
    rng = np.random.default_rng(1)
    correct = [rng.random(NUM_IMAGES) < 0.7 for _ in range(3)]
    runs = ArmRuns(
        arm="finetune",
        results=[{"seed": s, "top1": 100 * c.mean()} for s, c in enumerate(correct)],
        correct=correct,
    )
    answers = rng.random(NUM_IMAGES) < 0.8
    soup = ArmRuns(
        arm="soup",
        results=[{"seed": None, "top1": 100 * answers.mean()}],
        correct=[answers],
        soup_of="finetune",
    )
    found = arm_difference(soup, runs)
    expected = stats.ttest_1samp(100 * (answers - np.mean(correct, axis=0)), 0)
    assert found.p_value == pytest.approx(expected.pvalue)
    assert (found.low, found.high) == pytest.approx(tuple(expected.confidence_interval(0.95)))
    same = ArmRuns(arm="s", results=soup.results, correct=[answers], soup_of="twin")
    twin = ArmRuns(arm="twin", results=soup.results, correct=[answers])
    assert arm_difference(same, twin).p_value == 1.0


def test_a_soup_has_no_exchange_rate() -> None:
    measured = sizes([500, 600], [200, 300])
    soup = ArmRuns(
        arm="soup",
        results=[{"seed": None, "top1": 90.0}],
        correct=[np.arange(NUM_IMAGES) < 900],
        soup_of="ours",
    )
    with_soup = [
        Size(fraction=one.fraction, labels=one.labels, arms={**one.arms, "soup": soup})
        for one in measured
    ]
    assert exchange_rates(with_soup, baseline="theirs") == exchange_rates(
        measured, baseline="theirs"
    )


def test_sizes_that_do_not_ascend_are_refused() -> None:
    with pytest.raises(ValueError, match="ascend"):
        exchange_rates(sizes([1, 2], [1, 2])[::-1], baseline="theirs")
