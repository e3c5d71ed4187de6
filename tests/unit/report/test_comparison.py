"""The comparison object: its keys, its pairing by seed, and what it falls back to."""

import json

import numpy as np
import pytest
from scipy import stats

from deit_transfer.analysis.comparison import ArmRuns, build_comparison

NUM_IMAGES = 200


def answered(correct: int, *, shift: int = 0) -> np.ndarray:
    """Return (200,) answers of which `correct` are right, the right ones moved by `shift`."""
    return np.roll(np.arange(NUM_IMAGES) < correct, shift)


def arm_of(
    name: str,
    correct: list[int],
    *,
    seeds: list[int] | None = None,
    shift: int = 0,
    reused: int = 0,
    paper_top1: float | None = None,
) -> ArmRuns:
    arrays = [answered(count, shift=shift) for count in correct]
    results = [
        {
            "run": f"runs/{name}-{seed}",
            "seed": seed,
            "top1": 100 * array.mean(),
            "top5": 99.0,
            "mean_per_class": 50.0 + seed,
            "loss": 0.5,
            "images_seen": 1000,
            "seconds": 10.0 * (seed + 1),
            "images_per_second": 100.0,
            "epochs": 5,
        }
        for seed, array in zip(seeds or range(len(correct)), arrays, strict=True)
    ]
    return ArmRuns(arm=name, results=results, correct=arrays, reused=reused, paper_top1=paper_top1)


def compare(*arms: ArmRuns, labels: tuple[str, ...] = ()) -> dict:
    return build_comparison(
        arms=arms, dataset="digits", model="m", start="s", budget="recipe", labels=labels
    )


def test_three_seeds_give_means_t_intervals_and_a_paired_t_test():
    scratch, finetune = [100, 104, 96], [150, 156, 152]
    found = compare(
        arm_of("scratch", scratch), arm_of("finetune", finetune, reused=1, paper_top1=99.1)
    )
    a, b = np.array(finetune) / 2, np.array(scratch) / 2
    expected = stats.ttest_rel(a, b)
    assert found["delta"] == pytest.approx((a - b).mean())
    assert found["p_value"] == pytest.approx(expected.pvalue)
    assert found["delta_ci95"] == pytest.approx(list(expected.confidence_interval(0.95)))
    assert "paired t" in found["test_method"]
    arm = found["arms"][1]
    assert (arm["arm"], arm["n"], arm["reused"], arm["paper_top1"]) == ("finetune", 3, 1, 99.1)
    assert arm["top1_mean"] == pytest.approx(a.mean())
    interval = stats.t.interval(0.95, df=2, loc=a.mean(), scale=stats.sem(a))
    assert arm["top1_ci95"] == pytest.approx(list(interval))
    assert arm["seconds_mean"] == pytest.approx(20.0)
    assert arm["mean_per_class_mean"] == pytest.approx(51.0)
    assert [run["seed"] for run in arm["runs"]] == [0, 1, 2]
    assert found["seeds"] == [0, 1, 2]
    assert found["num_test_images"] == NUM_IMAGES


def test_the_object_is_json():
    found = compare(arm_of("scratch", [100, 104]), arm_of("finetune", [150, 150]), labels=("x",))
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert found["labels"][0] == "x"
    assert any("very wide" in label for label in found["labels"])


def test_one_seed_tests_the_images_and_says_so():
    found = compare(arm_of("scratch", [100]), arm_of("finetune", [130], shift=20))
    # right: 0..99 against 20..149, so 20 only scratch and 50 only finetune
    exact = stats.binomtest(20, 70).pvalue - stats.binom.pmf(20, 70, 0.5)
    assert found["p_value"] == pytest.approx(exact)
    assert found["delta"] == pytest.approx(15.0)
    assert "McNemar" in found["test_method"]
    wilson = stats.binomtest(130, NUM_IMAGES).proportion_ci(method="wilson")
    assert found["arms"][1]["top1_ci95"] == pytest.approx([100 * wilson.low, 100 * wilson.high])
    assert "Wilson" in found["arms"][1]["ci_method"]
    assert any("one seed" in label for label in found["labels"])


def test_equal_differences_fall_back_to_the_images():
    found = compare(arm_of("scratch", [100, 102]), arm_of("finetune", [110, 112]))
    assert found["delta"] == pytest.approx(5.0)
    # ten images right in one arm alone: the even chance of that is 1 / 1024
    assert found["p_value"] == pytest.approx(1 / 1024)
    assert "McNemar" in found["test_method"]
    assert any("differ equally" in label for label in found["labels"])


def test_equal_figures_do_not_claim_a_zero_width_interval():
    arm = compare(arm_of("finetune", [200, 200, 200]))["arms"][0]
    low, high = arm["top1_ci95"]
    assert low < 99
    assert high == 100


def test_an_interval_ends_at_a_hundred():
    arm = compare(arm_of("finetune", [190, 200]))["arms"][0]
    assert arm["top1_ci95"][1] == 100
    assert arm["top1_ci95"][0] >= 0


def test_runs_are_paired_by_seed_and_not_by_place():
    scratch = arm_of("scratch", [100, 120, 140], seeds=[0, 1, 2])
    finetune = arm_of("finetune", [148, 126, 108], seeds=[2, 1, 0])
    found = compare(scratch, finetune)
    expected = stats.ttest_rel([54.0, 63.0, 74.0], [50.0, 60.0, 70.0])
    assert found["p_value"] == pytest.approx(expected.pvalue)


def test_only_shared_seeds_are_paired():
    found = compare(
        arm_of("scratch", [100, 120, 140], seeds=[0, 1, 2]),
        arm_of("finetune", [130, 140], seeds=[1, 2]),
    )
    assert found["differences"][0]["n"] == 2
    assert found["delta"] == pytest.approx(2.5)
    assert any("only shared seeds" in label for label in found["labels"])


def test_every_arm_is_compared_with_scratch_and_finetune_leads():
    found = compare(
        arm_of("finetune+distill", [160, 165]),
        arm_of("scratch", [100, 104]),
        arm_of("finetune", [150, 157]),
    )
    assert [(d["arm"], d["baseline"]) for d in found["differences"]] == [
        ("finetune", "scratch"),
        ("finetune+distill", "scratch"),
    ]
    assert found["delta"] == found["differences"][0]["delta"] == pytest.approx(25.75)
    assert any("not adjusted" in label for label in found["labels"])
    assert [arm["arm"] for arm in found["arms"]] == ["finetune+distill", "scratch", "finetune"]


def test_one_arm_alone_has_no_difference():
    found = compare(arm_of("finetune", [150, 151]))
    assert found["delta"] is None
    assert found["p_value"] is None
    assert found["differences"] == []


def test_a_measure_that_a_run_lacks_has_no_mean():
    arm = arm_of("finetune", [150, 151])
    arm.results[1]["loss"] = float("nan")
    del arm.results[0]["top5"]
    summary = compare(arm)["arms"][0]
    assert summary["loss_mean"] is None
    assert summary["top5_mean"] is None


@pytest.mark.parametrize(
    ("arms", "message"),
    [
        ((), "at least one run"),
        ((arm_of("scratch", []),), "at least one run"),
        ((arm_of("a", [100]), arm_of("a", [100])), "different names"),
        ((arm_of("a", [100, 101], seeds=[1, 1]),), "a seed"),
        ((arm_of("a", [100], seeds=[0]), arm_of("b", [100], seeds=[1])), "no seed in common"),
    ],
)
def test_arms_that_do_not_compare_are_refused(arms, message):
    with pytest.raises(ValueError, match=message):
        compare(*arms)


def test_answers_of_another_run_are_refused():
    arm = arm_of("finetune", [150])
    other = ArmRuns(arm="finetune", results=arm.results, correct=[answered(151)])
    with pytest.raises(ValueError, match="another top1"):
        compare(other)
    short = ArmRuns(arm="scratch", results=arm.results, correct=[answered(150)[:100]])
    with pytest.raises(ValueError, match="different numbers"):
        compare(arm, short)


def test_arms_whose_epoch_was_chosen_on_test_are_named():
    flattered = arm_of("finetune", [150, 151])
    flattered.results[1]["selects_on_test"] = True
    found = compare(arm_of("scratch", [100, 104]), flattered)
    (label,) = (label for label in found["labels"] if "chosen on test" in label)
    assert label.startswith("finetune:")
    assert not any("chosen on test" in label for label in compare(arm_of("a", [9]))["labels"])
