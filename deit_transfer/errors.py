"""Every error a user can meet: message, hint and exit code.

DeitTransferError            1    something we did not foresee
├── PeerLostError            1    another process of the run ended: a consequence, not the cause
├── UsageError               2    a flag, name or combination that cannot be
│   └── RecipeError          2    a recipe with faults, all of them listed
├── DataError                3    the dataset is missing, incomplete or contradictory
│   └── ImageError           3    one image cannot be decoded
├── CheckpointError          4    weights or a run's state cannot be used
├── DivergedError            5    the loss or a gradient is not finite
├── ResourceError            6    memory or disk is exhausted
├── RunLockedError           7    another process is working in the run folder
└── StoppedError                  asked to stop; the state is saved
    ├── Preempted           75    SIGTERM or SIGUSR1: run the same command again
    └── Interrupted        130    Ctrl-C
"""

import difflib
from collections.abc import Iterable, Sequence


class DeitTransferError(Exception):
    """Base of all errors with a message for the user.

    Args:
        message: A sentence or two that name the value, the place and the choices, begun in lower
            case and without a full stop at the end, as it is shown after "Error:".
        hint: What to do or type next, from a capital on and without a full stop; empty when
            there is nothing to add.
    """

    exit_code = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class PeerLostError(DeitTransferError):
    """Another process of the same run has ended or does not respond."""


class UsageError(DeitTransferError):
    """A flag, a name or a combination of them cannot be used."""

    exit_code = 2


class RecipeError(UsageError):
    """A recipe has faults; `faults` lists each by its dotted location."""

    def __init__(self, message: str, *, faults: Sequence[str] = (), hint: str = "") -> None:
        listed = "".join(f"\n  - {fault}" for fault in faults)
        super().__init__(f"{message}{listed}", hint=hint)
        self.faults = tuple(faults)


class DataError(DeitTransferError):
    """A dataset is missing, incomplete or contradicts itself."""

    exit_code = 3


class ImageError(DataError):
    """One image cannot be decoded."""


class CheckpointError(DeitTransferError):
    """Weights or the saved state of a run are missing, damaged or do not fit."""

    exit_code = 4


class DivergedError(DeitTransferError):
    """The loss, a gradient or a weight became non-finite."""

    exit_code = 5


class ResourceError(DeitTransferError):
    """Memory or disk space is exhausted."""

    exit_code = 6


class RunLockedError(DeitTransferError):
    """Another process is working in the run folder."""

    exit_code = 7


class StoppedError(DeitTransferError):
    """The user or the system asked the run to stop; its state has been saved."""


class Preempted(StoppedError):
    """SIGTERM or SIGUSR1 arrived: the same command with --resume goes on."""

    exit_code = 75


class Interrupted(StoppedError):
    """Ctrl-C arrived."""

    exit_code = 130


def did_you_mean(value: str, choices: Iterable[str], *, limit: int = 3) -> str:
    """Return "Did you mean a, b?" for the choices closest to a mistyped value, else ""."""
    close = difflib.get_close_matches(value, list(choices), n=limit, cutoff=0.5)
    return f"Did you mean {' or '.join(close)}?" if close else ""
