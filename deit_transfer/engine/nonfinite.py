"""Non-finite losses and gradients: the record of such a step, and the error that ends a run."""

from dataclasses import dataclass
from typing import Literal

from deit_transfer.errors import DivergedError

NonFinitePolicy = Literal["error", "skip", "rollback"]
IMAGES_NAMED = 8


@dataclass(frozen=True, kw_only=True)
class NonFiniteStep:
    """A step whose loss or gradient is NaN or infinite, over all processes.

    `indices` are the images of the step, `suspects` those in micro-batches whose own loss was not
    finite: none when the loss was, and the gradient was not.
    """

    step: int
    epoch: int
    lr: float
    loss: float
    grad_norm: float
    policy: NonFinitePolicy
    seen: int
    indices: list[int]
    suspects: list[int]


def diverged_error(incident: NonFiniteStep, *, budget: int) -> DivergedError:
    """Return the error that ends a run at a non-finite step.

    Args:
        incident: The step.
        budget: Non-finite steps the run was to bear.
    """
    looked_at = incident.suspects or incident.indices
    named = ", ".join(map(str, looked_at[:IMAGES_NAMED]))
    others = " and others" if len(looked_at) > IMAGES_NAMED else ""
    spent = ""
    if incident.policy != "error":
        spent = f"; the {incident.policy} policy's budget of {budget} such steps is spent"
    return DivergedError(
        f"step {incident.step} is not finite: loss {incident.loss:g}, gradient norm "
        f"{incident.grad_norm:g} at learning rate {incident.lr:g}, images {named}"
        f"{others}{spent}",
        hint="Lower the peak learning rate, clip the gradient norm, or train in bf16 or fp32",
    )
