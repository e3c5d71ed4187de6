"""Wrap an Optuna study: suggest, prune, record.

The study lives in a journal file, so that a search that was cut off goes on. What is suggested
depends on the seed, the trial's number and the trials before, never on when the search was cut off.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from deit_transfer.errors import StoppedError, UsageError
from deit_transfer.recipe.search_space import Dimension, Point, Range

if TYPE_CHECKING:
    import optuna

Pruner = Literal["median", "halving", "none"]
JOURNAL_FILE = "optuna.journal"
STUDY = "sweep"
# before this many trials have ended there is no median worth the name; a guess
FIRST_TRIALS_KEPT = 4
# the warm-up and a high rate say little about where a trial ends; a guess
KEPT_SHARE = 3


class Pruned(StoppedError):
    """Optuna pruned the trial; never leaves the sweep."""


class Study:
    """An Optuna study.

    Args:
        folder: Where the journal is kept; hold its lock.
        dimensions: What is varied, and how.
        pruner: `median`: give up on a trial that is below the median of the others at an epoch;
            `halving`: successive halving; `none`.
        epochs: Of a trial; the first third of them is never given up on.
        seed: Of the suggestions.

    Raises:
        UsageError: Optuna is not installed.
    """

    def __init__(
        self,
        folder: Path,
        dimensions: Sequence[Dimension],
        *,
        pruner: Pruner,
        epochs: int,
        seed: int,
    ) -> None:
        check_installed()
        import optuna
        from optuna.storages import JournalStorage
        from optuna.storages.journal import JournalFileBackend

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._seed = seed
        self._dimensions = dimensions
        self._study = optuna.create_study(
            study_name=STUDY,
            storage=JournalStorage(JournalFileBackend(str(folder / JOURNAL_FILE))),
            direction="maximize",
            pruner=_pruner(pruner, first_epoch=max(1, epochs // KEPT_SHARE)),
            load_if_exists=True,
        )

    @property
    def num_trials(self) -> int:
        """Count the trials so far, the unfinished ones too."""
        return len(self._study.get_trials(deepcopy=False))

    def ended(self) -> list[dict[str, Any]]:
        """Return what was noted of the trials that have ended, in their order."""
        trials = self._study.get_trials(deepcopy=False)
        return [json.loads(t.user_attrs["row"]) for t in trials if t.state.is_finished()]

    def cut_off(self) -> "list[OptunaTrial]":
        """Return the trials that an earlier process left unfinished."""
        from optuna.trial import Trial, TrialState

        left = self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        return [OptunaTrial(self._study, Trial(self._study, trial._trial_id)) for trial in left]

    def ask(self) -> "OptunaTrial":
        """Return the next trial."""
        from optuna.samplers import TPESampler

        entropy = np.random.SeedSequence([self._seed, self.num_trials])
        self._study.sampler = TPESampler(seed=int(entropy.generate_state(1)[0]))
        distributions = {one.location: _distribution(one) for one in self._dimensions}
        return OptunaTrial(self._study, self._study.ask(fixed_distributions=distributions))


class OptunaTrial:
    """One trial that Optuna suggests."""

    def __init__(self, study: "optuna.Study", trial: "optuna.Trial") -> None:
        self._study = study
        self._trial = trial

    @property
    def number(self) -> int:
        """The trial's number, from 1."""
        return self._trial.number + 1

    @property
    def settings(self) -> Point:
        """The settings to try, by dotted location."""
        return {
            name: json.loads(value) if isinstance(value, str) else value
            for name, value in self._trial.params.items()
        }

    def report(self, epoch: int, top1: float) -> None:
        """Report an epoch's validation top-1; a resumed trial may report an epoch again."""
        if epoch not in self._frozen().intermediate_values:
            self._trial.report(top1, epoch)

    def check(self, epoch: int, epochs: int, top1: float) -> None:
        """Report an epoch's validation top-1, and raise Pruned if Optuna gives up on the trial."""
        self.report(epoch, top1)
        if epoch < epochs and self._trial.should_prune():
            raise Pruned(f"pruned after epoch {epoch} of {epochs} at {top1:.1f}% on validation")

    def tell(self, row: dict[str, Any]) -> None:
        """Record the outcome of the trial: `state` and `val_top1`."""
        from optuna.trial import TrialState

        self._trial.set_user_attr("row", json.dumps(row))
        if row["state"] == "done":
            self._study.tell(self._trial, row["val_top1"])
        else:
            state = TrialState.PRUNED if row["state"] == "pruned" else TrialState.FAIL
            self._study.tell(self._trial, state=state)

    def _frozen(self) -> "optuna.trial.FrozenTrial":
        return self._study.get_trials(deepcopy=False)[self._trial.number]


def check_installed() -> None:
    """Raise UsageError where Optuna is missing."""
    try:
        import optuna  # noqa: F401
    except ImportError:
        raise UsageError(
            "--trials needs Optuna, which is not installed",
            hint="pip install 'deit-transfer[sweep]'; --grid without --trials needs nothing",
        ) from None


def _pruner(name: Pruner, *, first_epoch: int) -> "optuna.pruners.BasePruner":
    from optuna.pruners import MedianPruner, NopPruner, SuccessiveHalvingPruner

    if name == "median":
        return MedianPruner(n_startup_trials=FIRST_TRIALS_KEPT, n_warmup_steps=first_epoch)
    return SuccessiveHalvingPruner(min_resource=first_epoch) if name == "halving" else NopPruner()


def _distribution(dimension: Dimension) -> "optuna.distributions.BaseDistribution":
    from optuna.distributions import (
        CategoricalDistribution,
        FloatDistribution,
        IntDistribution,
    )

    if not isinstance(dimension, Range):
        # as text, for Optuna keeps no lists
        return CategoricalDistribution([json.dumps(value) for value in dimension.values])
    if dimension.is_whole:
        return IntDistribution(int(dimension.low), int(dimension.high), log=dimension.log)
    return FloatDistribution(dimension.low, dimension.high, log=dimension.log)
