"""One training step recorded once and replayed: a CUDA graph of teacher, forward, backward, update.

A small network on a fast GPU waits for Python to launch its kernels; a replay is one launch. What
draws from Python's or NumPy's generators (mixing, erasing) runs before, uncaptured, and is copied
into the graph's input. Seeds per step hold: a replay reads the seed of CUDA's generator anew.
Shapes: B images of a step, K classes.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.optim import Optimizer

from deit_transfer.batch import Batch
from deit_transfer.engine.device_copy import copy_to_device
from deit_transfer.engine.late_step import (
    LaunchedStep,
    launch_step,
    launched,
    update_if_finite,
)
from deit_transfer.engine.out_of_memory import is_out_of_memory
from deit_transfer.engine.schedule import apply_lr
from deit_transfer.engine.seed import seed_batch_transforms, seed_step
from deit_transfer.engine.state import StepBatches, TrainState
from deit_transfer.engine.step import StepSums, clipped_norm, forward_backward, step_numbers

# Steps of one shape that run uncaptured first: they create the optimizer's state, compile what is
# compiled, and let the libraries take the memory they want. torch's manual takes 3.
WARM_UP_STEPS = 3


@dataclass
class _Recorded:
    """A captured step with the tensors it reads and writes."""

    shape: torch.Size
    images: Tensor  # (B, 3, H, W)
    targets: Tensor  # (B, K)
    teacher_logits: Tensor | None  # (B, K), where the teacher is asked outside
    rates: Tensor  # (parameter groups,)
    numbers: Tensor
    replay: Callable[[], None]


class CapturedStep:
    """Launches steps: captured ones of the usual shape, all others uncaptured.

    The first shape that has come `WARM_UP_STEPS` times is captured, and kept until another comes
    as often in a row: the odd last batch of an epoch does not replace it. A step in several
    micro-batches or, after memory ran out, in several forward passes, is not captured.

    Args:
        state: With read_late and capture.
    """

    def __init__(self, state: TrainState) -> None:
        if state.capture is None:
            raise ValueError("the state has no capture")
        self.state = state
        self.replayed = 0
        self._capture = state.capture
        self._recorded: _Recorded | None = None
        self._shape: torch.Size | None = None
        self._seen: Counter[torch.Size] = Counter()
        self._given_up = False
        cuda = state.device.type == "cuda"
        self._side = torch.cuda.Stream(state.device) if cuda else None

    def launch(self, work: StepBatches, lr: float) -> LaunchedStep:
        """Make one update, and return it for reading later; as `launch_step`."""
        whole = len(work.micro_batches) == 1 and self.state.forward_size is None
        if self._given_up or not whole or work.global_batch_size < 2:
            self._recorded = None
            return launch_step(self.state, work, lr)
        shape = work.micro_batches[0].images.shape
        if self._recorded is None or self._recorded.shape != shape:
            if self._recorded is not None and shape != self._shape:
                self._seen.clear()
            self._seen[shape] += 1
            self._shape = shape
            if self._seen[shape] <= WARM_UP_STEPS or not self._record(work, lr):
                with self._beside():
                    return launch_step(self.state, work, lr)
        self._shape = shape
        return self._replay(work, lr)

    def _replay(self, work: StepBatches, lr: float) -> LaunchedStep:
        state, recorded = self.state, self._recorded
        assert recorded is not None
        apply_lr(state.optimizer, lr)  # for whoever looks at the groups, such as a checkpoint
        self._fill(recorded, *self._inputs(work))
        seed_step(state.seed, work.step, work.numbers[0])
        recorded.replay()
        self.replayed += 1
        return launched(state, work, recorded.numbers)

    def _inputs(self, work: StepBatches) -> tuple[Tensor, Tensor, Batch]:
        """Return images, targets and batch of the step on the device, mixed and erased."""
        state, (number,), (batch,) = self.state, work.numbers, work.micro_batches
        seed_batch_transforms(state.augment_seed, work.step, number)
        on_device = copy_to_device(batch, state.device, state.copy_stream)
        images, targets = state.batch_transforms(on_device)
        return images, targets, on_device

    def _fill(self, recorded: _Recorded, images: Tensor, targets: Tensor, batch: Batch) -> None:
        recorded.images.copy_(images)
        recorded.targets.copy_(targets)
        rates = [float(group["lr"]) for group in self.state.optimizer.param_groups]
        # From pageable memory, which CUDA has read before the call returns: no later step's rates.
        recorded.rates.copy_(torch.tensor(rates), non_blocking=True)
        if recorded.teacher_logits is not None and self.state.teacher is not None:
            with torch.no_grad(), self.state.precision.autocast():
                recorded.teacher_logits.copy_(self.state.teacher(images, batch))

    def _record(self, work: StepBatches, lr: float) -> bool:
        """Capture the step, which does not run it; return whether that succeeded."""
        self._recorded = None
        apply_lr(self.state.optimizer, lr)
        self.state.model.train()
        recorded = self._buffers(work)
        batch = copy_to_device(work.micro_batches[0], self.state.device)

        def body() -> None:
            recorded.numbers.copy_(self._work(recorded, work.global_batch_size, batch))

        try:
            recorded.replay = self._capture(body)
        except (RuntimeError, MemoryError) as error:
            # whatever CUDA or an operator refuses: the uncaptured step does the same work
            self._given_up = True
            reason = "memory ran out" if is_out_of_memory(error) else str(error).splitlines()[0]
            self.state.notes.append(f"steps run uncaptured: no CUDA graph could be made ({reason})")
            self.state.optimizer.zero_grad(set_to_none=True)
            return False
        self._recorded = recorded
        self._seen.clear()
        return True

    def _buffers(self, work: StepBatches) -> _Recorded:
        state = self.state
        images, targets, batch = self._inputs(work)
        teacher_logits = None
        if state.teacher is not None and not state.teacher_sees_images_only:
            with torch.no_grad(), state.precision.autocast():
                teacher_logits = state.teacher(images, batch).clone()
        return _Recorded(
            shape=work.micro_batches[0].images.shape,
            images=images.clone(),
            targets=targets.clone(),
            teacher_logits=teacher_logits,
            rates=torch.zeros(len(state.optimizer.param_groups), device=state.device),
            numbers=torch.zeros(5, device=state.device),
            replay=lambda: None,
        )

    def _work(self, recorded: _Recorded, global_batch_size: int, batch: Batch) -> Tensor:
        """Do all of a step that is captured, on the recorded tensors; return its numbers."""
        state = self.state
        state.optimizer.zero_grad(set_to_none=True)
        sums = StepSums()
        loss = forward_backward(
            state,
            recorded.images,
            recorded.targets,
            batch,
            sums,
            weight=len(recorded.targets) / global_batch_size,
            teacher_logits=recorded.teacher_logits,
        )
        sums.losses.append(loss)
        grad_norm = clipped_norm(state.trainable, state.clip_grad_norm)
        numbers = step_numbers(state, sums, grad_norm)
        with _rates_on_device(state.optimizer, recorded.rates):
            update_if_finite(state, numbers)
        return numbers

    @contextmanager
    def _beside(self) -> Iterator[None]:
        """Run on the stream that is captured later, so that nothing is tied to another one."""
        if self._side is None:
            yield
            return
        current = torch.cuda.current_stream(self.state.device)
        self._side.wait_stream(current)
        with torch.cuda.stream(self._side):
            yield
        current.wait_stream(self._side)


def capture_cuda_graph(work: Callable[[], None]) -> Callable[[], None]:
    """Record what a function launches as a CUDA graph, and return what replays it.

    Nothing is computed while it is recorded. The random numbers of a replay follow from the seed
    of CUDA's default generator at that time.
    """
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()
    return graph.replay


@contextmanager
def _rates_on_device(optimizer: Optimizer, rates: Tensor) -> Iterator[None]:
    """Let the optimizer read its learning rates from a tensor (parameter groups,) while inside."""
    held = [(group, group["lr"], group["capturable"]) for group in optimizer.param_groups]
    for (group, _, _), rate in zip(held, rates.unbind(), strict=True):
        group["lr"], group["capturable"] = rate, True
    try:
        yield
    finally:
        for group, rate, capturable in held:
            group["lr"], group["capturable"] = rate, capturable
