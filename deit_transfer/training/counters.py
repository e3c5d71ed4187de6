"""Counters of a run: steps, images, seconds, the best epoch, and the metrics of an epoch."""

from dataclasses import asdict, dataclass
from typing import Any, Self

from deit_transfer.engine.loop import StepReport


@dataclass(kw_only=True)
class Counters:
    """What a run has done so far. Seconds go on counting when a run is resumed.

    `best` is the epoch that selection prefers so far: epoch, step, weights (raw or ema), value.
    Under a time budget `total_steps` is the length that fits, as of the last step, and `progress`
    the share of the learning rate schedule that is behind, in 0..1.
    """

    steps_done: int = 0
    images_seen: int = 0
    train_seconds: float = 0.0
    wait_seconds: float = 0.0
    seconds: float = 0.0
    nonfinite_seen: int = 0
    skipped_steps: int = 0
    forward_size: int | None = None
    epoch: int = 0
    lr: float = 0.0
    has_teacher: bool = False
    epoch_images: int = 0
    epoch_loss_sum: float = 0.0
    epoch_train_seconds: float = 0.0
    epoch_wait_seconds: float = 0.0
    epoch_agreement_sum: float = 0.0
    epoch_teacher_sum: float = 0.0
    best: dict[str, Any] | None = None
    total_steps: int | None = None
    progress: float = 0.0

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Self:
        return cls(**state)

    def state(self) -> dict[str, Any]:
        """Return plain values for a checkpoint."""
        return asdict(self)

    def add(self, report: StepReport) -> None:
        """Count one step."""
        self.steps_done = report.step + 1
        self.epoch, self.lr = report.epoch, report.lr
        self.has_teacher = report.teacher_agreement is not None
        self.images_seen += report.images
        self.nonfinite_seen = report.nonfinite_seen
        self.forward_size = report.forward_size
        self.train_seconds += report.time_s
        self.wait_seconds += report.data_wait_s
        self.epoch_train_seconds += report.time_s
        self.epoch_wait_seconds += report.data_wait_s
        if report.skipped:
            self.skipped_steps += 1
            return
        self.epoch_images += report.images
        self.epoch_loss_sum += report.loss * report.images
        self.epoch_agreement_sum += (report.teacher_agreement or 0.0) * report.images
        self.epoch_teacher_sum += (report.teacher_top1 or 0.0) * report.images

    def close_epoch(self, *, epochs: int) -> dict[str, Any]:
        """Return the training side of an epoch's record, and begin the next epoch."""
        images = max(self.epoch_images, 1)
        seconds = max(self.epoch_train_seconds, 1e-9)
        record: dict[str, Any] = {
            "epoch": self.epoch + 1,
            "epochs": epochs,
            "step": self.steps_done,
            "images_seen": self.images_seen,
            "lr": self.lr,
            "loss": self.epoch_loss_sum / images,
            "images_per_second": self.epoch_images / seconds,
            "data_wait_percent": 100 * self.epoch_wait_seconds / seconds,
        }
        if self.has_teacher:
            record["teacher_agreement"] = 100 * self.epoch_agreement_sum / images
            record["teacher_top1"] = 100 * self.epoch_teacher_sum / images
        self.epoch_images, self.epoch_loss_sum = 0, 0.0
        self.epoch_train_seconds = self.epoch_wait_seconds = 0.0
        self.epoch_agreement_sum = self.epoch_teacher_sum = 0.0
        return record
