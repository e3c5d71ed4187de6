"""A run's result in sentences, for people who read nothing else."""

from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

from deit_transfer.html_report.page_values import ClassRow, ConfusedRow
from deit_transfer.report.number_format import counted, duration, grouped, percent

Result = Mapping[str, Any]

IMAGENET, NONE = "imagenet", "none"
FEW_CLASSES_TOLD = 2  # with one class alone there is no best and no hardest


def run_sentences(
    result: Result, classes: Sequence[ClassRow], confused: Sequence[ConfusedRow]
) -> list[str]:
    """Return the answer first, then where it is good and bad, then what it took.

    Args:
        result: A result object, as `report.result.result_table` takes it.
        classes: Scores by class; empty where they are not known.
        confused: The pairs confused most often.
    """
    told = [_answer(result), _heads(result), _extremes(classes, confused), _effort(result)]
    return [sentence for sentence in (*told, _paper(result)) if sentence]


def run_title(result: Result) -> str:
    """Return a run's model and dataset."""
    return f"{result['model']} on {result['dataset']}"


def how(result: Result) -> str:
    """Return what a run came from: `fine-tuned from ImageNet weights`, `trained from scratch`."""
    start = str(result.get("pretrained") or NONE)
    if start == NONE:
        return "trained from scratch"
    origin = "ImageNet weights" if start == IMAGENET else PurePath(start).name or start
    averaged = len(result.get("soup_of") or [])
    kind = f"the average of {averaged} networks " if averaged else ""
    return f"{kind}fine-tuned from {origin}"


def run_cautions(result: Result, *, train_limited: bool, unreadable: int) -> list[str]:
    """Return what a reader must know to judge the figure.

    Args:
        result: A result object.
        train_limited: Only a part of the labeled images was used.
        unreadable: Test images that could not be read, and count as wrong.
    """
    counts = result.get("counts") or {}
    used = sum(counts.get(split, 0) for split in ("train", "val"))
    skipped = result.get("skipped_steps") or 0
    found = {
        "The epoch was selected on the test images: the paper's protocol, which flatters the "
        "figure.": bool(result.get("selects_on_test")),
        f"Only {grouped(used)} labeled images were used, those for validation counted in.": (
            train_limited
        ),
        f"{grouped(unreadable)} test images could not be read; they count as wrong.": (
            unreadable > 0
        ),
        f"{grouped(skipped)} steps were skipped, because their loss was not finite.": skipped > 0,
        "One run with one seed: the interval covers the test images drawn, not other seeds.": (
            result.get("seed") is not None
        ),
    }
    return [sentence for sentence, holds in found.items() if holds]


def _answer(result: Result) -> str:
    scored = f"{grouped(result.get('num_test_images'))} test images of {result['dataset']}"
    if interval := result.get("top1_ci95"):
        low, high = interval
        scored += f" right (95% interval {percent(low)} to {percent(high)})"
    else:
        scored += " right"
    answer = f"{result['model']}, {how(result)}, gets {percent(result['top1'])}% of the {scored}."
    if result.get("headline") == "mean_per_class":
        mean = percent(result.get("mean_per_class"))
        answer += f" Averaged over the classes, as this dataset is measured, that is {mean}%."
    return answer


def _heads(result: Result) -> str:
    heads = result.get("heads") or {}
    if not {"class", "distill"} <= heads.keys():
        return ""
    taught = result.get("teacher_top1")
    teacher = f" Its teacher gets {percent(taught)}% of held-out images." if taught else ""
    return (
        f"Its class head alone gets {percent(heads['class'])}%, its distillation head "
        f"{percent(heads['distill'])}%, both together {percent(result['top1'])}%.{teacher}"
    )


def _extremes(classes: Sequence[ClassRow], confused: Sequence[ConfusedRow]) -> str:
    if len(classes) < FEW_CLASSES_TOLD:
        return ""
    best = max(classes, key=lambda row: row.recall)
    worst = min(classes, key=lambda row: row.recall)
    if best.recall == worst.recall:
        return f"It does equally well on every class ({percent(best.recall)}%)."
    said = (
        f"It is best at {best.name} ({percent(best.recall)}% found) and worst at {worst.name} "
        f"({percent(worst.recall)}%)."
    )
    if not confused:
        return said
    first = confused[0]
    return (
        f"{said} Its most frequent mistake is to take {first.true} for {first.given}: "
        f"{percent(first.percent)}% of those images."
    )


def _effort(result: Result) -> str:
    seen, epochs = result.get("images_seen"), result.get("epochs")
    if seen is None or epochs is None:
        return ""
    return (
        f"It saw {counted(seen, 'training image')} in {counted(epochs, 'epoch')}, which took "
        f"{duration(result.get('seconds'))} on {result.get('device', 'this machine')} in "
        f"{result.get('precision', 'an unknown precision')}."
    )


def _paper(result: Result) -> str:
    paper = result.get("paper_top1")
    if paper is None:
        return ""
    label = result.get("paper_label") or "the same network"
    return f"The paper reports {percent(paper)}% ({label})."
