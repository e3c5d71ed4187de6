"""Statistics of a comparison: means, intervals and paired tests over arms that share seeds.

Takes finished results and writes nothing; how the figures are shown belongs to `report`.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deit_transfer.analysis.statistics import (
    Difference,
    mcnemar,
    mean_answers_difference,
    mean_interval,
    paired_difference,
    wilson_interval,
)

MEASURES = (
    "top1",
    "top5",
    "mean_per_class",
    "loss",
    "images_seen",
    "seconds",
    "images_per_second",
)
RUN_FACTS = ("run", "seed", "epochs", *MEASURES)


@dataclass(frozen=True, kw_only=True)
class ArmRuns:
    """The results of one arm, one entry per seed.

    `results` are result objects of single runs (`seed`, `top1` and the other measures, and
    `num_classes` where it is known);
    `correct` holds for each an (N,) bool array over the test images, in one order for all arms.
    An arm that depends on no seed has a single result, whose `seed` is None; it is compared with
    each seed of another arm. `soup_of` names the arm whose runs were averaged into this one.
    `paper_label` says which model and table `paper_top1` belongs to; `reused` counts the runs
    that were found finished; `facts` are passed on as they are.
    """

    arm: str
    results: Sequence[Mapping[str, Any]]
    correct: Sequence[NDArray[np.bool_]]
    paper_top1: float | None = None
    paper_label: str = ""
    reused: int = 0
    soup_of: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_fixed(self) -> bool:
        """Whether this is one classifier whatever the seed."""
        return len(self.results) == 1 and self.results[0]["seed"] is None


def build_comparison(
    *,
    arms: Sequence[ArmRuns],
    dataset: str,
    model: str,
    start: str,
    budget: str,
    labels: Sequence[str] = (),
    level: float = 0.95,
) -> dict[str, Any]:
    """Return the comparison of several arms as one JSON-ready object.

    The baseline is the arm `scratch` (the first arm without one); every other arm is compared
    with it, and the leading `delta` is that of `finetune` (the first other arm without one).
    `finetune` is compared with `probe` as well, and a soup with the runs that it was made of.

    Args:
        arms: At least one; each with at least one run and no seed twice.
        labels: What a reader must know to judge the figures; ours are added behind.
        level: Coverage of the intervals, in (0, 1); the keys are named for the default.

    Raises:
        ValueError: Arms have no seed in common, or results and answers do not belong together.
    """
    num_test_images = _check_arms(arms)
    named = {arm.arm: arm for arm in arms}
    baseline = named.get("scratch", arms[0])
    others = [arm for arm in arms if arm is not baseline and not arm.soup_of]
    others.sort(key=lambda arm: arm.arm != "finetune")
    pairs = [(arm, baseline) for arm in others]
    finetune, probe = named.get("finetune"), named.get("probe")
    if finetune and probe and baseline not in (finetune, probe):
        pairs.append((finetune, probe))
    pairs += [(arm, named[arm.soup_of]) for arm in arms if arm.soup_of]
    differences = [
        _as_json(arm_difference(arm, other, level=level), arm, other) for arm, other in pairs
    ]
    nothing = {"delta": None, "delta_ci95": None, "p_value": None, "test_method": "", "n": 0}
    first = differences[0] if differences else nothing
    notes = [*labels, *_own_labels(arms, first)]
    return {
        "dataset": dataset,
        "model": model,
        "pretrained": start,
        "seeds": sorted({seed for arm in arms for seed in _by_seed(arm)}),
        "budget": budget,
        "arms": [_summary(arm, level=level) for arm in arms],
        "delta": first["delta"],
        "delta_ci95": first["delta_ci95"],
        "p_value": first["p_value"],
        "test_method": first["test_method"],
        "differences": differences,
        "num_test_images": num_test_images,
        "num_classes": _num_classes(arms),
        "labels": list(dict.fromkeys(notes)),
    }


def _num_classes(arms: Sequence[ArmRuns]) -> int | None:
    """Return the number of classes, one for all arms; None where no result says it."""
    said = [result.get("num_classes") for arm in arms for result in arm.results]
    return next((number for number in said if number is not None), None)


def arm_difference(arm: ArmRuns, baseline: ArmRuns, *, level: float = 0.95) -> Difference:
    """Return the top-1 of one arm less that of another, in points, with interval and test.

    Over the seeds that both have; where those say nothing, over the test images of the first. A
    soup has no seed of its own: it is compared with the mean of the runs it was made of, image by
    image, so that only the test images are chance.

    Args:
        arm: Scored on the same test images, in the same order, as `baseline`; the training
            images may differ.
        baseline: What is subtracted.
        level: Coverage of the interval, in (0, 1).

    Raises:
        ValueError: The arms have no seed in common.
    """
    if arm.soup_of == baseline.arm:
        return mean_answers_difference(arm.correct[0], baseline.correct, level=level)
    pairs = _pairs(arm, baseline)
    if not pairs:
        raise ValueError(f"arms {arm.arm} and {baseline.arm} have no seed in common")
    ours = [float(arm.results[place]["top1"]) for place, _ in pairs]
    theirs = [float(baseline.results[place]["top1"]) for _, place in pairs]
    found = paired_difference(ours, theirs, level=level)
    if found is not None:
        return found
    # t has nothing to go by: the images of the first pair have to answer
    place, base_place = pairs[0]
    return mcnemar(arm.correct[place], baseline.correct[base_place], level=level)


def _check_arms(arms: Sequence[ArmRuns]) -> int:
    """Return the number of test images, one for all arms."""
    if not arms or any(not arm.results for arm in arms):
        raise ValueError("a comparison needs arms with at least one run each")
    if len({arm.arm for arm in arms}) != len(arms):
        raise ValueError(f"arms must have different names, got {[arm.arm for arm in arms]}")
    for arm in arms:
        num_seeds = 1 if arm.is_fixed else len(_by_seed(arm))
        if num_seeds != len(arm.results) or len(arm.correct) != len(arm.results):
            raise ValueError(f"arm {arm.arm}: one result and one array a seed")
    sizes = {np.asarray(correct).size for arm in arms for correct in arm.correct}
    if len(sizes) != 1:
        raise ValueError(f"arms were scored on different numbers of images: {sorted(sizes)}")
    for arm in arms:
        for result, correct in zip(arm.results, arm.correct, strict=True):
            if abs(100 * float(np.mean(correct)) - float(result["top1"])) > 0.01:
                raise ValueError(f"arm {arm.arm}, seed {result['seed']}: another top1")
    return sizes.pop()


def _by_seed(arm: ArmRuns) -> dict[int, int]:
    return {
        int(result["seed"]): place
        for place, result in enumerate(arm.results)
        if result["seed"] is not None
    }


def _summary(arm: ArmRuns, *, level: float) -> dict[str, Any]:
    values = [float(result["top1"]) for result in arm.results]
    interval = mean_interval(values, level=level)
    method = "t over seeds"
    if interval is None or interval.high - interval.low < 1e-9:
        # equal figures are chance, not precision; the test images still leave a doubt
        correct = np.asarray(arm.correct[0], bool)
        interval = wilson_interval(int(correct.sum()), correct.size, level=level)
        method = "Wilson over test images"
    means = {f"{name}_mean": _mean(arm.results, name) for name in MEASURES}
    return {
        "arm": arm.arm,
        **means,
        # an accuracy ends at 0 and 100, and so does what its interval may claim
        "top1_ci95": [max(0.0, interval.low), min(100.0, interval.high)],
        "ci_method": method,
        "n": len(values),
        "paper_top1": arm.paper_top1,
        "paper_label": arm.paper_label,
        "runs": [{key: result.get(key) for key in RUN_FACTS} for result in arm.results],
        "reused": arm.reused,
        "soup_of": arm.soup_of,
        **arm.facts,
    }


def _mean(results: Sequence[Mapping[str, Any]], name: str) -> float | None:
    values = [result.get(name) for result in results]
    finite = [float(value) for value in values if value is not None and math.isfinite(value)]
    return sum(finite) / len(finite) if len(finite) == len(values) else None


def _pairs(arm: ArmRuns, baseline: ArmRuns) -> list[tuple[int, int]]:
    """Return the places of the runs that belong together: by seed, or a fixed arm with each."""
    if arm.is_fixed or baseline.is_fixed:
        return [(a, b) for a in range(len(arm.results)) for b in range(len(baseline.results))]
    places, base_places = _by_seed(arm), _by_seed(baseline)
    seeds = sorted(places.keys() & base_places.keys())
    return [(places[seed], base_places[seed]) for seed in seeds]


def _as_json(found: Difference, arm: ArmRuns, baseline: ArmRuns) -> dict[str, Any]:
    return {
        "arm": arm.arm,
        "baseline": baseline.arm,
        "delta": found.mean,
        "delta_ci95": [max(-100.0, found.low), min(100.0, found.high)],
        "p_value": found.p_value,
        "test_method": found.method,
        "n": len(_pairs(arm, baseline)),
    }


def _own_labels(arms: Sequence[ArmRuns], first: Mapping[str, Any]) -> list[str]:
    """Return the cautions that follow from the numbers themselves."""
    labels = []
    num_seeds = max(len(arm.results) for arm in arms)
    if num_seeds == 1:
        labels.append("one seed: Wilson intervals cover the test images drawn, not other seeds")
    elif "McNemar" in first["test_method"]:
        labels.append("the seeds differ equally: the test is over the images of the first seed")
    elif num_seeds == 2:
        labels.append("two seeds leave one degree of freedom: the intervals are very wide")
    if len(arms) > 2:
        labels.append(
            "several arms: the p-values are of single tests, not adjusted for their number"
        )
    flattered = [arm.arm for arm in arms if any(r.get("selects_on_test") for r in arm.results)]
    if flattered:
        labels.append(
            f"{', '.join(flattered)}: the epoch was chosen on test images, as in the paper; this "
            "is optimistic"
        )
    if len({frozenset(_by_seed(arm)) for arm in arms if not arm.is_fixed}) > 1:
        labels.append("the arms were not run with the same seeds: only shared seeds are paired")
    for arm in arms:
        if arm.soup_of:
            num_runs = len({a.arm: a for a in arms}[arm.soup_of].results)
            labels.append(
                f"{arm.arm}: the weights of the {num_runs} runs of {arm.soup_of}, each with a head "
                "drawn by its seed, averaged and scored once; its images and time are theirs "
                "together"
            )
        elif arm.is_fixed and num_seeds > 1:
            labels.append(
                f"{arm.arm}: nothing in it depends on the seed, so it is one classifier; its "
                "interval is over test images"
            )
    return labels
