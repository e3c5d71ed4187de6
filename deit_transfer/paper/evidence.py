"""Find what was measured here: finished runs, and evaluations kept as JSON.

A measurement is what `throughput --json` or `evaluate --json` printed, kept as a file directly in
the folder of the runs.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deit_transfer.errors import DeitTransferError
from deit_transfer.paper.values import TABLES, paper_dataset, paper_model
from deit_transfer.recipe.loader import load_recipe
from deit_transfer.recipe.schema import Recipe
from deit_transfer.report.number_format import counted
from deit_transfer.runs.folder import RECIPE_FILE, RESULT_FILE, RunFolder, find_runs, open_run

# the paper's column of each dataset, and its name in the catalog
DATASETS = {
    "imagenet": ("ImageNet", "imagenet"),
    "cifar10": ("CIFAR-10", "cifar10"),
    "cifar100": ("CIFAR-100", "cifar100"),
    "flowers102": ("Flowers", "flowers102"),
    "cars": ("Cars", "cars"),
    "inat18": ("iNat-18", "inat2018"),
    "inat19": ("iNat-19", "inat2019"),
}
# a folder with these classes and this many test images is CIFAR-10, whatever it is called
CIFAR10 = {
    *("airplane", "automobile", "bird", "cat", "deer"),
    *("dog", "frog", "horse", "ship", "truck"),
}
CIFAR10_TEST_IMAGES = 10_000
# a run that saw less than this share of the images of the paper's own is a short one: a guess
SHORT_SHARE = 0.5


@dataclass(frozen=True, kw_only=True)
class FoundRun:
    """A finished run.

    `dataset` is the paper's word for what it was trained on (see `DATASETS`), or what its folder
    is called; `images_of_paper` is how many images the paper's own run would have seen, None
    where it has none on this dataset.
    """

    folder: RunFolder
    recipe: Recipe
    result: Mapping[str, Any]
    dataset: str
    images_of_paper: float | None

    @property
    def resolution(self) -> int:
        """Side of its input in pixels."""
        return int(self.result.get("resolution") or 224)

    @property
    def row(self) -> str:
        """Return what the paper calls its network at this size; where it has none, what we do."""
        word, exact = paper_model(self.recipe.model.name, self.resolution)
        return word if exact else f"{word or self.recipe.model.name}, {self.resolution} px"

    def is_row(self, name: str) -> bool:
        """Return whether the paper calls its network this, at this size."""
        word, exact = paper_model(self.recipe.model.name, self.resolution)
        return exact and word == name

    @property
    def is_distilled(self) -> bool:
        """Whether it was trained with a teacher."""
        return self.recipe.distill.kind != "none"

    @property
    def is_limited(self) -> bool:
        """Whether it was trained on a part of the labeled images."""
        return self.recipe.data.train_limit is not None or self.recipe.data.fraction is not None

    @property
    def is_short(self) -> bool:
        """Whether its score needs a warning beside the paper's."""
        seen = float(self.result.get("images_seen") or 0)
        of_paper = self.images_of_paper
        return self.is_limited or of_paper is None or seen < SHORT_SHARE * of_paper


@dataclass(frozen=True, kw_only=True)
class FoundRuns:
    """All that was found below a folder; `skipped` lists what could not be read."""

    out: Path
    runs: tuple[FoundRun, ...]
    speeds: tuple[Mapping[str, Any], ...]
    scores: tuple[Mapping[str, Any], ...]
    skipped: tuple[str, ...]

    @property
    def on_imagenet(self) -> list[FoundRun]:
        """Return the runs that were trained on ImageNet."""
        return [run for run in self.runs if run.dataset == "imagenet"]


def collect_evidence(out: Path) -> FoundRuns:
    """Read the finished runs below a folder, and the measurements in it; a missing one is empty."""
    runs: list[FoundRun] = []
    skipped: list[str] = []
    for folder in find_runs(out) if out.is_dir() else []:
        try:
            result = open_run(folder.path).read_json(RESULT_FILE)
            # a soup is no run of a seed: the runs that it averages are here themselves
            if result and not result.get("soup_of"):
                runs.append(_found_run(folder))
        except (DeitTransferError, OSError) as error:
            skipped.append(f"{folder} is left out: {str(error).splitlines()[0]}")
    speeds, scores = _measurements(out)
    return FoundRuns(
        out=out,
        runs=tuple(runs),
        speeds=tuple(speeds),
        scores=tuple(scores),
        skipped=tuple(skipped),
    )


def accuracies(out: Path, *, run: Path | None, model: str, resolution: int) -> list[dict[str, Any]]:
    """Return the accuracy of a run, or of all runs below a folder with this network and size.

    Args:
        out: Folder that holds runs.
        run: The run itself, wherever it lies; None looks for the network.
        model: The network's name.
        resolution: Pixels a side.
    """
    found = collect_evidence(out).runs if run is None else (_found_run(open_run(run)),)
    return [
        {
            "dataset": dataset_title(one.dataset),
            "run": str(one.folder),
            "mode": one.recipe.mode,
            "top1": one.result["top1"],
            "top1_ci95": one.result.get("top1_ci95"),
            "num_test_images": one.result.get("num_test_images"),
            "label": run_label([one]),
        }
        for one in found
        if one.recipe.model.name == model and one.resolution == resolution and _has_top1(one)
    ]


def dataset_title(dataset: str) -> str:
    """Return the paper's column for a dataset, or the dataset's own name."""
    return DATASETS[dataset][0] if dataset in DATASETS else dataset


def run_label(runs: Sequence[FoundRun], *, interval: str = "") -> str:
    """Describe a value of ours in a line: seeds, size, weights, length, dataset.

    Args:
        runs: Runs that differ in their seed alone; at least one.
        interval: Written after the seeds, where there is one.
    """
    first = runs[0]
    seeds = sorted(one.recipe.run.seed for one in runs)
    said = [f"seed {seeds[0]}" if len(seeds) == 1 else f"mean of {len(seeds)} seeds"]
    said += [interval] if interval else []
    said += [first.recipe.model.name, f"{first.resolution} px", *_origin(first)]
    said += _length(first)
    if first.result.get("selects_on_test"):
        said.append("epoch selected on test")
    said.append(counted(first.result["num_test_images"], "test image"))
    return ", ".join(said)


def _origin(run: FoundRun) -> list[str]:
    start, teacher = run.recipe.model.pretrained, run.recipe.distill.teacher
    said = [] if start == "none" else [f"from {Path(start).name}"]
    said += [] if teacher is None else [f"taught by {Path(teacher).name}"]
    return [*said, *_place(run)]


def _place(run: FoundRun) -> list[str]:
    named = Path(run.recipe.data.dataset)
    known = paper_dataset(run.recipe.data.dataset) == run.dataset
    return [] if known else [f"images of the folder {named.name}"]


def _length(run: FoundRun) -> list[str]:
    seen, counts = run.result.get("images_seen"), run.result.get("counts") or {}
    said = []
    if run.is_limited:
        labeled = counts.get("train", 0) + counts.get("val", 0)
        said.append(f"{labeled:,} labeled images")
    if seen and run.images_of_paper:
        share = 100 * seen / run.images_of_paper
        text = f"{share:.2g}%" if share < 10 else f"{share:.0f}%"
        said.append(f"saw {seen:,} images, {text} of the paper's run")
    elif seen:
        said.append(f"saw {seen:,} images")
    return said


def _found_run(folder: RunFolder) -> FoundRun:
    recipe = load_recipe(str(folder.path / RECIPE_FILE))
    result = folder.read_json(RESULT_FILE)
    dataset = _dataset(folder, recipe, result)
    return FoundRun(
        folder=folder,
        recipe=recipe,
        result=result,
        dataset=dataset,
        images_of_paper=_images_of_paper(dataset, recipe),
    )


def _dataset(folder: RunFolder, recipe: Recipe, result: Mapping[str, Any]) -> str:
    word = paper_dataset(recipe.data.dataset)
    if word in DATASETS:
        return word
    tested = result.get("num_test_images") == CIFAR10_TEST_IMAGES
    if tested and set(folder.class_names()) == CIFAR10:
        return "cifar10"
    return str(result.get("dataset") or recipe.data.dataset)


def _images_of_paper(dataset: str, recipe: Recipe) -> float | None:
    """Return the images that the paper's run on this dataset sees, by the published recipe."""
    if dataset not in DATASETS or recipe.mode == "teacher":
        return None
    title, catalog = DATASETS[dataset]
    if dataset == "imagenet" and recipe.mode != "finetune":
        name = "pretrain/deit_base"
    elif dataset == "imagenet":
        name = "paper/finetune/imagenet_384"
    elif recipe.mode == "finetune":
        name = f"paper/finetune/{catalog}"
    else:
        name = f"paper/scratch/{catalog}"
    train = TABLES["table8"].column("train")[title]
    assert isinstance(train, int)
    return float(load_recipe(name).schedule.epochs * train)


def _measurements(out: Path) -> tuple[list[Mapping[str, Any]], list[Mapping[str, Any]]]:
    speeds: list[Mapping[str, Any]] = []
    scores: list[Mapping[str, Any]] = []
    for path in sorted(out.glob("*.json")) if out.is_dir() else []:
        try:
            kept = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if not isinstance(kept, dict):
            continue
        models = kept.get("models")
        if isinstance(models, list) and all("images_per_second" in one for one in models):
            hardware = {"file": str(path), "hardware": kept.get("hardware")}
            speeds += [hardware | one for one in models]
        results = kept.get("datasets", [kept])
        if isinstance(results, list):
            scores += [
                {"file": str(path), **one}
                for one in results
                if isinstance(one, dict) and _is_plain_score(one)
            ]
    return speeds, scores


def _is_plain_score(found: Mapping[str, Any]) -> bool:
    """Return whether an evaluation is on test images without augmentation, as the paper's."""
    plain = found.get("split", "test") == "test" and found.get("views", "one") == "one"
    return plain and {"top1", "dataset", "run"} <= found.keys()


def _has_top1(run: FoundRun) -> bool:
    return run.result.get("top1") is not None
