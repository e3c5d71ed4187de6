"""The trainer: what happens between two steps (counting, validation, checkpoints, stop, resume).

A checkpoint is written before an epoch is scored. Whatever kills the run then, a resumed run
loads it, scores the same epoch again, and goes on to the same weights and the same records.
"""

import time
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor, nn

from deit_transfer.data.dataset import ImageSet
from deit_transfer.data.pipeline.loader import BadImage, EvalBatches
from deit_transfer.engine.checkpoint import (
    list_checkpoints,
    load_checkpoint,
    save_checkpoint,
)
from deit_transfer.engine.inference import Predictions, Scores, head_scores
from deit_transfer.engine.loop import StepReport
from deit_transfer.engine.nonfinite import NonFiniteStep
from deit_transfer.engine.signals import StopSignals
from deit_transfer.engine.state import TrainState
from deit_transfer.recipe.durations import Durations, resolution_at
from deit_transfer.runs.folder import RunFolder
from deit_transfer.training import build
from deit_transfer.training.callbacks import Callbacks
from deit_transfer.training.counters import Counters
from deit_transfer.training.predict_split import predict_split
from deit_transfer.training.setup import RunSetup

NONFINITE_FILE = "nonfinite.json"


@dataclass(kw_only=True)
class Trainer:
    """A run under way: its setup, the training state, and what has been counted and scored."""

    setup: RunSetup
    state: TrainState
    folder: RunFolder
    callbacks: Callbacks
    stop: StopSignals
    counters: Counters = field(default_factory=Counters)
    records: list[dict[str, Any]] = field(default_factory=list)
    _scored_s: float | None = None  # seconds an image, when a split was scored first
    _saved_at: float = field(default_factory=time.monotonic)
    _counted_at: float = field(default_factory=time.monotonic)
    _num_replaced: int = 0
    _num_notes: int = 0
    _begun: int = 0  # steps that have begun, where they are read late
    _decided: dict[int, tuple[bool, bool]] = field(default_factory=dict)
    _scoring: dict[int, EvalBatches] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.setup.budget is not None:
            planned, lr_at = self.setup.durations.total_steps, self.state.lr_at
            self.state.lr_at = lambda _step: lr_at(self.counters.progress * planned)

    @property
    def durations(self) -> Durations:
        """The length of the run; under a time budget, what fits as of the last step."""
        plan, total_steps = self.setup.durations, self.counters.total_steps
        if total_steps is None:
            return plan
        epochs = -(-total_steps // plan.steps_per_epoch)
        return replace(plan, total_steps=total_steps, epochs=epochs)

    @property
    def selection_split(self) -> ImageSet | None:
        """The split that is scored after every epoch; None where nothing is held out."""
        return (
            self.setup.splits.test if self.setup.splits.select == "test" else self.setup.splits.val
        )

    def resume(self) -> None:
        """Load the newest complete checkpoint, if there is any, and finish the epoch it ends."""
        world = self.setup.world
        # the main process decides, before it writes the first one
        if not world.broadcast(bool(list_checkpoints(self.folder.checkpoints, tag="last"))):
            self._save()
            world.barrier()
            self._score_fitted_head()
            return
        saved = self._load()
        self.counters = Counters.from_state(saved["progress"])
        if self.setup.budget is not None:
            self.setup.budget.deadline -= self.counters.seconds
        self.state.forward_size = self.counters.forward_size
        self._say(f"resumed at step {self.counters.steps_done} of {self.durations.total_steps}")
        if saved["world_size"] != world.size:
            self._say(
                f"{saved['world_size']} processes saved this and {world.size} go on with it: the "
                "batches are the same, sums differ by rounding"
            )
        self.records = [
            record for record in self.folder.metrics() if record["step"] < self.counters.steps_done
        ]
        if self._at_epoch_end():
            self._end_epoch()
        elif self.counters.steps_done == 0:
            self._score_fitted_head()

    def restore(self) -> None:
        """Put network, optimizer and EMA back to the newest complete checkpoint.

        What was counted and scored since then stays counted: the run goes on from here.
        """
        self._load()

    def _load(self) -> dict[str, Any]:
        """Load the newest whole checkpoint into the parts, and return what else it holds."""
        saved = load_checkpoint(self.folder.checkpoints, tag="last")
        for problem in saved.problems:
            self.callbacks.warn(f"{problem}; went back to {saved.path.name}")
            self.folder.log(f"checkpoint problem: {problem}")
        self.setup.classifier.load_state_dict(saved.model)
        if self.state.ema is not None and saved.ema is not None:
            self.state.ema.load_state_dict(saved.ema)
        self.state.optimizer.load_state_dict(saved.state["optimizer"])
        self.state.scaler.load_state_dict(saved.state["scaler"])
        return saved.state

    def after_step(self, report: StepReport, *, replaced: list[BadImage], notes: list[str]) -> None:
        """Count a step, show it, and score, save or stop where it is time to.

        Args:
            report: Of the step.
            replaced: The unreadable training images of the run so far.
            notes: What the loader had to do differently so far.
        """
        self._tell_memory(report)
        self.counters.add(report)
        self._follow_clock(report)
        self.callbacks.step(report, self.durations.total_steps)
        self._tell_replaced(replaced)
        for note in notes[self._num_notes :]:
            self._say(note)
        self._num_notes = len(notes)
        while self.state.notes:
            self._say(self.state.notes.pop(0))
        stopping, saving = (
            self._decided.pop(report.step) if report.step in self._decided else self._stop_or_save()
        )
        if self._at_epoch_end():
            began = time.monotonic()
            # before the scoring, and not again after it: a resumed run scores the epoch anew
            self._save()
            self._end_epoch()
            self._measured_epoch_end(time.monotonic() - began)
        elif saving:
            self._save()
        if stopping:
            self.stop.check(self.setup.world)

    def pauses_after(self, step: int) -> bool:
        """Decide, while a step runs, whether its weights are saved or scored.

        What is decided here holds in `after_step`, as the next step may have begun by then.
        """
        self._begun = step + 1
        self._decided[step] = self._stop_or_save()
        # under a time budget each step decides how many are left, and the next one's rate
        by_clock = self.setup.budget is not None
        return by_clock or self._is_epoch_end(step + 1) or any(self._decided[step])

    def _stop_or_save(self) -> tuple[bool, bool]:
        stopping = self.stop.requested(self.setup.world)
        return stopping, stopping or self._save_is_due()

    def _follow_clock(self, report: StepReport) -> None:
        """Under a time budget, count the steps that still fit, and move on along the schedule."""
        budget, counters = self.setup.budget, self.counters
        if budget is None:
            return
        budget.measured_step(report.time_s)
        ahead = self.durations.total_steps - report.step  # this step included
        counters.progress += (1 - counters.progress) / max(1, ahead)
        self._count_steps_left()

    def _measured_epoch_end(self, seconds: float) -> None:
        if self.setup.budget is None:
            return
        self.setup.budget.epoch_end_s = seconds
        if self._scored_s is not None:
            self.setup.budget.scoring_s = self._scored_s * len(self.setup.splits.test)
        self._count_steps_left()

    def _count_steps_left(self) -> None:
        budget, recipe = self.setup.budget, self.setup.recipe
        assert budget is not None  # the callers looked
        resolution = self.setup.classifier.resolution
        if recipe.schedule.progressive and resolution > resolution_at(
            recipe.schedule,
            epoch=self.counters.epoch,
            epochs=self.setup.durations.epochs,
            resolution=resolution,
        ):
            return  # only the last stage is stretched: what comes before it is as planned
        left = self.setup.world.broadcast(budget.steps_left(self.durations.steps_per_epoch))
        self.counters.total_steps = self.counters.steps_done + left

    def record_nonfinite(self, incident: NonFiniteStep) -> None:
        """Write a non-finite step to disk, with the images' names."""
        if self.setup.world.is_main:
            ids = self.setup.splits.train.ids
            self.folder.write_json(
                NONFINITE_FILE,
                {
                    "step": incident.step,
                    "epoch": incident.epoch + 1,
                    "lr": incident.lr,
                    "loss": repr(incident.loss),
                    "grad_norm": repr(incident.grad_norm),
                    "policy": incident.policy,
                    "seen": incident.seen,
                    "images": [ids[index] for index in incident.indices],
                    "suspects": [ids[index] for index in incident.suspects],
                },
            )
        self.callbacks.warn(
            f"step {incident.step}: the loss or gradient is not finite; details are in "
            f"{self.folder.path / NONFINITE_FILE}"
        )

    def predict(self, model: nn.Module, images: ImageSet) -> Predictions:
        """Return a model's predictions on a split, whose images are decoded once a run."""
        batches = self._scoring.get(id(images))
        if batches is None:
            batches = build.scoring_batches(
                self.setup.recipe,
                images,
                self.setup.classifier,
                self.setup.world,
                progress=self.check_stop,
            )
            if self.setup.world.size == 1:
                batches.while_waiting = self.stop.check
            self._scoring[id(images)] = batches
        began = time.monotonic()
        predictions = predict_split(
            model,
            batches,
            classifier=self.setup.classifier,
            device=self.setup.device,
            precision=self.setup.precision,
            world=self.setup.world,
            stop=self.stop,
        )
        if self._scored_s is None:  # decoding included, as it will be for test
            self._scored_s = (time.monotonic() - began) / len(images)
        return predictions

    def stop_while_waiting(self) -> None:
        """Save and stop, if a signal arrived while a batch of training images is awaited.

        Several processes stop together, after a step: see `after_step`.
        """
        if self.setup.world.size == 1 and self.stop.requested():
            if self._begun > self.counters.steps_done:
                # the loop reports this step before it passes the stop on, and then it is saved
                self._decided[self._begun - 1] = (True, True)
            elif not self._at_epoch_end():  # else it is saved, with what the epoch counted
                self._save()
            self.stop.check()

    def check_stop(self, done: int, total: int) -> None:
        """Stop while images are decoded beforehand; nothing is lost, as nothing was computed."""
        self.stop.check()

    def selected_weights(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return the weights that selection prefers, and what is known of them."""
        if self.counters.best is None:
            epoch = {"epoch": self.counters.epoch + 1, "step": self.counters.steps_done}
            return self.setup.classifier.state_dict(), {
                **epoch,
                "weights": "raw",
                "value": None,
            }
        self.setup.world.barrier()  # until the main process has written it
        return load_checkpoint(self.folder.checkpoints, tag="best").model, self.counters.best

    def _at_epoch_end(self) -> bool:
        return self._is_epoch_end(self.counters.steps_done)

    def _is_epoch_end(self, done: int) -> bool:
        at_edge = done % self.durations.steps_per_epoch == 0 or done == self.durations.total_steps
        return done > 0 and at_edge

    def _end_epoch(self) -> None:
        """Validate, keep the weights if they are the best so far, and record the epoch."""
        record = self.counters.close_epoch(epochs=self.durations.epochs)
        if (images := self.selection_split) is not None:
            split = "test" if images is self.setup.splits.test else "val"
            self.callbacks.scoring(split)
            scored = {"raw": head_scores(self.predict(self.setup.classifier, images))}
            if self.state.ema is not None:
                scored["ema"] = head_scores(self.predict(self.state.ema.model, images))
            record |= _scores_record(scored)
            if self.setup.splits.select != "last":
                self._keep_best(scored, record["epoch"])
        self.count_seconds()
        record["seconds"] = self.counters.seconds
        self.records.append(record)
        if self.setup.world.is_main:
            self.folder.write_metrics(self.records)
        self.callbacks.epoch(record)

    def _score_fitted_head(self) -> None:
        """Score a head that was fitted to frozen features: epoch 0, kept if no other is better."""
        recipe, splits = self.setup.recipe, self.setup.splits
        if recipe.model.head_start != "features" or splits.select != "val":
            return
        assert splits.val is not None  # it is what selects
        scored = {"raw": head_scores(self.predict(self.setup.classifier, splits.val))}
        self._keep_best(scored, 0)
        self._say(f"before training: val top-1 {scored['raw']['joint'].top1:.2f}")

    def _keep_best(self, scored: dict[str, dict[str, Scores]], epoch: int) -> None:
        headline = self.setup.recipe.data.headline
        values = {
            weights: (s["joint"].top1 if headline == "top1" else s["joint"].mean_per_class)
            for weights, s in scored.items()
        }
        # on equal scores the EMA wins, which is the less noisy of the two
        weights = max(values, key=lambda name: (values[name], name == "ema"))
        best = self.counters.best
        # on equal scores the later epoch wins: with few validation images the best value is
        # often reached in the warm-up, and many epochs tie with it
        if best is not None and values[weights] < best["value"]:
            return
        model = (
            self.setup.classifier
            if weights == "raw" or self.state.ema is None
            else self.state.ema.model
        )
        step = self.counters.steps_done
        if self.setup.world.is_main:
            save_checkpoint(
                self.folder.checkpoints, tag="best", step=step, model=model.state_dict()
            )
        self.counters.best = {
            "epoch": epoch,
            "step": step,
            "weights": weights,
            "value": values[weights],
        }

    def _save_is_due(self) -> bool:
        minutes = (time.monotonic() - self._saved_at) / 60
        return self.setup.world.any(minutes > self.setup.recipe.run.save_every_minutes)

    def _save(self) -> None:
        self.count_seconds()
        if self.setup.world.is_main:
            save_checkpoint(
                self.folder.checkpoints,
                tag="last",
                step=self.counters.steps_done,
                model=self.setup.classifier.state_dict(),
                ema=self.state.ema.state_dict() if self.state.ema is not None else None,
                state={
                    "optimizer": self.state.optimizer.state_dict(),
                    "scaler": self.state.scaler.state_dict(),
                    "progress": self.counters.state(),
                    "world_size": self.setup.world.size,
                },
            )
        self._saved_at = time.monotonic()

    def count_seconds(self) -> None:
        now = time.monotonic()
        self.counters.seconds += now - self._counted_at
        self._counted_at = now

    def _tell_memory(self, report: StepReport) -> None:
        if report.forward_size is not None and report.forward_size != self.counters.forward_size:
            text = (
                f"memory ran out: from step {report.step} on, {report.forward_size} images per "
                "forward pass; the batch and the learning rate stay as they were"
            )
            self.callbacks.warn(text)
            self.folder.log(text)

    def _tell_replaced(self, replaced: list[BadImage]) -> None:
        for bad in replaced[self._num_replaced :]:
            other = self.setup.splits.train.ids[bad.replaced_by or 0]
            text = f"{bad.image_id} cannot be read ({bad.reason}); trained on {other} instead"
            self.callbacks.warn(text)
            self.folder.log(text)
        self._num_replaced = len(replaced)

    def _say(self, text: str) -> None:
        self.callbacks.note(text)
        if self.setup.world.is_main:
            self.folder.log(text)


def _scores_record(scored: dict[str, dict[str, Scores]]) -> dict[str, Any]:
    raw = scored["raw"]["joint"]
    record: dict[str, Any] = {
        "val_top1": raw.top1,
        "val_top5": raw.top5,
        "val_mean_per_class": raw.mean_per_class,
        "val_loss": raw.loss,
    }
    if "distill" in scored["raw"]:
        record["heads"] = {name: head.top1 for name, head in scored["raw"].items()}
    if "ema" in scored:
        record["ema_top1"] = scored["ema"]["joint"].top1
        record["ema_loss"] = scored["ema"]["joint"].loss
    return record
