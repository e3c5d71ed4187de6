"""Create the optimizer and its parameter groups through timm. Learning rates: see schedule.

timm exempts from weight decay all one-dimensional parameters (biases, norms) and those the network
names itself (tokens and position embedding); layer decay gives each group an `lr_scale`.
"""

from collections import Counter
from typing import Literal

from timm.optim import create_optimizer_v2
from torch import nn
from torch.optim import Optimizer

from deit_transfer.errors import UsageError

OPTIMIZERS = ("adamw", "sgd", "lamb")


def make_optimizer(
    backbone: nn.Module,
    *,
    name: Literal["adamw", "sgd", "lamb"],
    peak_lr: float,
    weight_decay: float,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    momentum: float = 0.9,
    layer_decay: float | None = None,
) -> Optimizer:
    """Create the optimizer over the trainable parameters of a timm network.

    Args:
        backbone: The timm network itself, not a wrapper: its parameter names decide on the decay.
        name: adamw, sgd (Nesterov, as timm's) or lamb.
        peak_lr: Already scaled to the batch size; 0 or more.
        weight_decay: 0 or more.
        betas: Of adamw and lamb.
        eps: Of adamw and lamb.
        momentum: Of sgd.
        layer_decay: Factor in (0, 1] by which each layer below the head learns slower.

    Raises:
        UsageError: Unknown name, or nothing left to train.
    """
    if name not in OPTIMIZERS:
        raise UsageError(f"optimizer {name!r} is not one of {', '.join(OPTIMIZERS)}")
    if not any(parameter.requires_grad for parameter in backbone.parameters()):
        raise UsageError("every parameter is frozen, so there is nothing to train")
    # torch's fused AdamW makes the same update in one pass over each tensor.
    fast = {"fused": True} if name == "adamw" else {}
    optimizer: Optimizer = create_optimizer_v2(
        backbone,
        opt=name,
        lr=peak_lr,
        weight_decay=weight_decay,
        momentum=momentum,
        layer_decay=layer_decay,
        betas=betas,
        eps=eps,
        **fast,
    )
    check_coverage(backbone, optimizer)
    return optimizer


def check_coverage(model: nn.Module, optimizer: Optimizer) -> None:
    """Check that the optimizer holds each trainable parameter once and nothing else.

    Raises:
        ValueError: Listing the parameters that are missing, doubled, frozen or strange.
    """
    held = Counter(id(p) for group in optimizer.param_groups for p in group["params"])
    wanted = {id(p): name for name, p in model.named_parameters() if p.requires_grad}
    missing = [name for key, name in wanted.items() if held[key] == 0]
    doubled = [name for key, name in wanted.items() if held[key] > 1]
    strange = [key for key in held if held[key] and key not in wanted]
    if missing or doubled or strange:
        raise ValueError(
            "the optimizer must hold each trainable parameter of the model once: "
            f"missing {missing}, twice {doubled}, frozen or not the model's {len(strange)}"
        )
