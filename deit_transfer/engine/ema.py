"""Exponential moving average (EMA) of the weights: evaluated like the model, never trained.

A thin layer over timm's ModelEmaV3, whose whole state with a constant decay is its state dict:
saved and loaded, it goes on bit for bit.
"""

from collections.abc import Mapping

import torch
from timm.utils import ModelEmaV3
from torch import Tensor, nn

# DeiT's decay 0.99996 (main.py) remembers 25,000 of the 375,300 steps of its 300 epochs at batch
# 1024: one fifteenth of the run.
RUN_PER_MEMORY = 15
MAX_DECAY = 0.99996


def decay_for(total_steps: int) -> float:
    """Return the decay whose memory is one fifteenth of the run: 1 - 15 / total_steps.

    DeiT's own constant on a run of 2,000 steps would still hold 92 % of the initial weights.

    Args:
        total_steps: Steps of the run, above 0.
    """
    return min(MAX_DECAY, max(0.0, 1 - RUN_PER_MEMORY / total_steps))


class Ema:
    """The average of a model's weights: ema <- decay * ema + (1 - decay) * weights.

    Args:
        model: Copied, with its buffers; integer buffers are copied at each update, not averaged.
        decay: In [0, 1).
    """

    def __init__(self, model: nn.Module, *, decay: float) -> None:
        self.decay = decay
        self._average = ModelEmaV3(model, decay=decay)
        self._average.module.requires_grad_(False)
        # Of update_where: walking over all modules at every step costs as much as a small kernel.
        self._averages: list[Tensor] = []
        self._weights: list[Tensor] = []
        self._copied: list[tuple[Tensor, Tensor]] = []

    @property
    def model(self) -> nn.Module:
        """The averaged model, in evaluation mode."""
        return self._average.module

    def update(self, model: nn.Module) -> None:
        """Move the average toward the model's present weights."""
        self._average.update(model)

    def update_where(self, model: nn.Module, applied: Tensor) -> None:
        """Move the average as `update` does, to rounding, if a scalar on the device is true.

        Whether it is true is never read, so that nothing waits for the device.

        Args:
            model: The same at each call.
            applied: Scalar bool.
        """
        if not self._averages:
            mine, its = self.model.state_dict().values(), model.state_dict().values()
            pairs = [(a, b) for a, b in zip(mine, its, strict=True) if a.is_floating_point()]
            self._averages, self._weights = [a for a, _ in pairs], [b for _, b in pairs]
            others = zip(mine, its, strict=True)
            self._copied = [(a, b) for a, b in others if not a.is_floating_point()]
        differences = torch._foreach_sub(self._weights, self._averages)
        torch._foreach_mul_(differences, applied.float() * (1 - self.decay))
        torch._foreach_add_(self._averages, differences)
        for average, value in self._copied:
            average.copy_(value)

    def state_dict(self) -> dict[str, Tensor]:
        """Return the averaged weights and buffers: the whole state."""
        return self.model.state_dict()

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore a saved average; every name must match."""
        self.model.load_state_dict(state)
