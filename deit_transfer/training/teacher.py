"""Load the teacher of a run and check it on held-out images."""

import math
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from deit_transfer.analysis.statistics import wilson_interval
from deit_transfer.batch import Batch
from deit_transfer.data.dataset import ImageSet
from deit_transfer.engine.inference import head_scores
from deit_transfer.engine.signals import StopSignals
from deit_transfer.errors import CheckpointError
from deit_transfer.models.checkpoint_adaptation import load_pretrained
from deit_transfer.models.classifier import Classifier, build_classifier
from deit_transfer.models.pretrained import IMAGENET, read_model, read_pretrained
from deit_transfer.models.teacher import Teacher
from deit_transfer.training import build
from deit_transfer.training.data_splits import DataSplits
from deit_transfer.training.head_start import HeadStart
from deit_transfer.training.predict_split import predict_split
from deit_transfer.training.setup import RunSetup
from deit_transfer.training.teacher_cache import TeacherCache, describe_teacher_inputs

IMAGENET_CLASSES = 1000
CHECKED_IMAGES = 2000


@dataclass(frozen=True)
class RunTeacher:
    """A checked teacher; `top1` is its accuracy in percent on held-out images."""

    name: str
    teacher: Teacher
    top1: float
    checked_on: str
    cache: TeacherCache | None = None

    @property
    def description(self) -> str:
        """The teacher's name and accuracy, in one line."""
        return f"teacher: {self.name}, {self.top1:.1f}% top-1 on {self.checked_on}"

    def __call__(self, images: Tensor, batch: Batch) -> Tensor:
        """Return the teacher's logits (B, K) on what the student sees (B, 3, H, W)."""
        return self.teacher(images) if self.cache is None else self.cache(images, batch)


def find_teacher(setup: RunSetup, *, stop: StopSignals) -> RunTeacher | None:
    """Load and check the recipe's teacher; None where the recipe has none.

    Raises:
        CheckpointError: The teacher's classes are not the student's, or it knows no more of
            them than chance, or less than the student before it is trained.
    """
    recipe, splits, student = setup.recipe, setup.splits, setup.classifier
    name = recipe.distill.teacher
    if name is None:
        return None
    classifier = _load(name, splits, setup.device)
    # the held-out images that selection uses; where there are none, some of train
    checked, where = (splits.val, "val") if splits.val is not None else (splits.train, "train")
    checked = checked.subset(range(0, len(checked), -(-len(checked) // CHECKED_IMAGES)))
    scores = head_scores(
        predict_split(
            classifier,
            build.scoring_batches(recipe, checked, classifier, setup.world),
            classifier=classifier,
            device=setup.device,
            precision=setup.precision,
            world=setup.world,
            stop=stop,
        )
    )["joint"]
    _check_above_chance(name, scores.top1, checked, where, len(splits.class_names))
    if setup.head_start is not None:
        _check_above_student(name, scores.top1, checked, where, setup.head_start)
    teacher = Teacher(classifier, student_mean=student.mean, student_std=student.std)
    cache = None
    if recipe.distill.cache is not None:
        seed = build.augment_seed(recipe)
        cache = TeacherCache(
            Path(recipe.distill.cache),
            description=describe_teacher_inputs(
                recipe,
                data_fingerprint=splits.fingerprint,
                augment_seed=seed,
                teacher=classifier,
                student=student,
                micro_batch_size=build.micro_batch_size(recipe, setup.world),
                epochs=setup.durations.epochs,
            ),
            teacher=teacher,
            num_images=len(splits.train),
            repeats=recipe.augment.repeats,
            num_classes=len(splits.class_names),
            top_k=recipe.distill.cache_top_k if recipe.distill.kind == "soft" else None,
        )
    return RunTeacher(name, teacher, scores.top1, where, cache)


def _load(name: str, splits: DataSplits, device: torch.device) -> Classifier:
    if Path(name).is_dir():
        classifier, class_names = read_model(Path(name), device=device)
        if class_names != splits.class_names:
            raise CheckpointError(
                f"the teacher {name} knows other classes ({_few(class_names)}) than the student "
                f"is to learn ({_few(splits.class_names)})",
                hint=_fit_hint(splits),
            )
        return classifier
    if len(splits.class_names) != IMAGENET_CLASSES:
        raise CheckpointError(
            f"the teacher {name} is no run folder, and a network with ImageNet's 1000 classes "
            f"has only a random head for these {len(splits.class_names)}",
            hint=_fit_hint(splits),
        )
    classifier = build_classifier(name=name, num_classes=IMAGENET_CLASSES)
    weights = read_pretrained(IMAGENET, model_name=name)
    load_pretrained(classifier, weights, keep_head=True, complete=True)
    return classifier.to(device)


def _check_above_chance(
    name: str, top1: float, checked: ImageSet, where: str, num_classes: int
) -> None:
    chance = 100 / num_classes
    low = wilson_interval(round(top1 * len(checked) / 100), len(checked)).low
    if low <= chance:
        raise CheckpointError(
            f"the teacher {name} has {top1:.1f}% top-1 on {len(checked)} {where} images, no more "
            f"than chance ({chance:.1f}%)",
            hint="Train the teacher longer, or check that its classes are in the same order",
        )


def _check_above_student(
    name: str, top1: float, checked: ImageSet, where: str, start: HeadStart
) -> None:
    """Refuse a teacher that is certainly worse than logistic regression on the student's features.

    It would teach its mistakes to a network that does not make them.
    """
    fit = start.fits[0]
    if math.isnan(fit.fold_top1):
        return
    teacher = wilson_interval(round(top1 * len(checked) / 100), len(checked))
    student = wilson_interval(round(fit.fold_top1 * fit.num_held_out / 100), fit.num_held_out)
    if teacher.high < student.low:
        raise CheckpointError(
            f"the teacher {name} is worse than its student before training: {top1:.1f}% top-1 on "
            f"{len(checked)} {where} images (95% interval up to {teacher.high:.1f}), where the "
            f"student's frozen features give {fit.fold_top1:.1f}% on {fit.num_held_out} held-out "
            f"images (from {student.low:.1f})",
            hint="Fine-tune without a teacher, or fit a better one; to distill all the same: "
            "--set model.head_start=random",
        )


def _few(class_names: tuple[str, ...]) -> str:
    shown = ", ".join(class_names[:4])
    return f"{shown}, ... {len(class_names)} in all" if len(class_names) > 4 else shown


def _fit_hint(splits: DataSplits) -> str:
    return f"Fit one: deit-transfer teacher fit {splits.name} --model resnet18"
