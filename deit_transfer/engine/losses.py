"""Training losses: cross-entropy, binary cross-entropy, soft and hard distillation.

They are functions of logits alone and know nothing of images, optimizers or teachers' networks.
Equations are those of the paper, section 4 (arXiv 2012.12877). Shapes: B batch, K classes.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from deit_transfer.batch import HeadLogits
from deit_transfer.errors import UsageError

Distillation = Literal["none", "soft", "hard"]
Through = Literal["token", "class"]
LabelLoss = Callable[[Tensor, Tensor], Tensor]

# Mixup and CutMix join two images, so a row of targets names two classes at the most.
MAX_CLASSES_PER_IMAGE = 2


class Objective(Protocol):
    """The mean loss of a batch, as a function of the logits."""

    def __call__(self, heads: HeadLogits, targets: Tensor, teacher_logits: Tensor | None) -> Tensor:
        """Return the scalar mean loss per image; teacher_logits (B, K) is None without teacher."""
        ...


def label_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the cross-entropy with soft targets: -1/B sum_b sum_k targets_bk log psi(Z)_bk.

    Args:
        logits: (B, K), any float type; the sum is taken in float32.
        targets: (B, K), rows sum to 1: one-hot, smoothed or mixed.
    """
    return -(targets * F.log_softmax(logits.float(), dim=-1)).sum(dim=-1).mean()


def balanced_label_loss(logits: Tensor, targets: Tensor, *, class_shares: Tensor) -> Tensor:
    """Return `label_loss` of the logits plus the logarithm of each class's share of the images.

    The sum learns the frequencies of training, so that the logits alone answer as if all classes
    were as frequent: Menon et al. 2021 (arXiv 2007.07314, equation 10, with tau = 1).

    Args:
        logits: (B, K).
        targets: (B, K), rows sum to 1.
        class_shares: (K,), above 0.
    """
    return label_loss(logits.float() + class_shares.to(logits.device).log(), targets)


def bce_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the binary cross-entropy, mean over B and K, each class an independent target.

    A class is positive when its target is above 0, so both classes of a mixed image are, as in
    DeiT III (arXiv 2204.07118, section 3; `engine.py:38` of the reference).

    Raises:
        UsageError: A row has more than two positive classes, as label smoothing gives to all.
    """
    positive = (targets > 0).to(torch.float32)  # (B, K)
    # Looking at the targets waits for the device, which a step that is being captured cannot do;
    # the steps before it have looked.
    capturing = torch.cuda.is_available() and torch.cuda.is_current_stream_capturing()
    if (
        logits.shape[-1] > MAX_CLASSES_PER_IMAGE
        and not capturing
        and positive.sum(dim=-1).max() > MAX_CLASSES_PER_IMAGE
    ):
        raise UsageError(
            "binary cross-entropy got targets with more than two classes above 0 for one image: "
            "label smoothing makes every class positive",
            hint="Set label smoothing to 0, or the label loss to cross-entropy (ce)",
        )
    return F.binary_cross_entropy_with_logits(logits.float(), positive)


def soft_distillation_loss(
    student_logits: Tensor, teacher_logits: Tensor, *, tau: float, compat_deit: bool = False
) -> Tensor:
    """Return tau^2/B sum_b KL(psi(Zt_b/tau) || psi(Zs_b/tau)), the divergence summed over classes.

    The factor tau^2 keeps the gradient's size independent of tau (Hinton et al., arXiv 1503.02531,
    section 2).

    Args:
        student_logits: (B, K).
        teacher_logits: (B, K), no gradient wanted.
        tau: Temperature, above 0.
        compat_deit: Divide by B*K as the reference does (`losses.py:53-61`), which makes the term
            K times smaller than the paper's.
    """
    log_student = F.log_softmax(student_logits.float() / tau, dim=-1)  # (B, K)
    log_teacher = F.log_softmax(teacher_logits.float() / tau, dim=-1)  # (B, K)
    divergence = F.kl_div(log_student, log_teacher, reduction="sum", log_target=True)
    count = student_logits.numel() if compat_deit else student_logits.shape[0]
    return divergence * (tau * tau / count)


def hard_distillation_loss(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """Return the cross-entropy with the teacher's decision, CE(psi(Zs), argmax_k Zt), unsmoothed.

    Args:
        student_logits: (B, K).
        teacher_logits: (B, K).
    """
    return F.cross_entropy(student_logits.float(), teacher_logits.argmax(dim=-1))


def late_fusion(heads: HeadLogits) -> Tensor:
    """Return the joint probabilities (B, K): the heads' softmaxes added, over their number.

    The paper adds the two softmaxes (section 4); halving the sum leaves every decision as it is
    and the rows summing to 1.
    """
    class_probabilities = heads.class_logits.float().softmax(dim=-1)  # (B, K)
    if heads.distill_logits is None:
        return class_probabilities
    return (class_probabilities + heads.distill_logits.float().softmax(dim=-1)) / 2  # (B, K)


def make_objective(
    *,
    kind: Distillation,
    through: Through = "token",
    label: Literal["ce", "bce"] = "ce",
    alpha: float = 0.5,
    tau: float = 3.0,
    two_class_tokens: bool = False,
    compat_deit: bool = False,
    class_shares: Tensor | None = None,
) -> Objective:
    """Choose the objective of a run.

    | kind | through | loss |
    |---|---|---|
    | none | - | L(Zc, y); a model with two heads: 1/2 L(Zc, y) + 1/2 L(Zd, y) |
    | soft | class | (1-alpha) L(Zc, y) + alpha tau^2 KL(psi(Zt/tau), psi(Zc/tau)) |
    | soft | token | (1-alpha) L(Zc, y) + alpha tau^2 KL(psi(Zt/tau), psi(Zd/tau)) |
    | hard | class | (1-alpha) L(Zc, y) + alpha CE(Zc, argmax Zt) |
    | hard | token | (1-alpha) L(Zc, y) + alpha CE(Zd, argmax Zt) |

    L is the label loss, Zc and Zd the logits of the class and the distillation head, Zt the
    teacher's. In the paper the soft form has alpha = lambda = 0.1 and tau = 3, the hard one
    alpha = 1/2.

    Without a teacher both heads of a distilled model learn the true label: the reference trains the
    class head alone, then averages the untrained other one into every prediction. For the same
    reason a model with two heads is refused when the teacher speaks through the class head only.

    Args:
        kind: What the teacher says: nothing, its softened probabilities, or its decision.
        through: Which head learns from the teacher.
        label: Loss of the true label: soft-target cross-entropy or binary cross-entropy.
        alpha: Weight of the teacher, in [0, 1].
        tau: Temperature of the soft form, above 0.
        two_class_tokens: The paper's control: two heads, both learning the true label.
        compat_deit: See soft_distillation_loss.
        class_shares: (K,) share of each class in training, to balance the label loss by; None
            leaves it.

    Raises:
        UsageError: A value is out of range, or two class tokens are combined with a teacher.
    """
    _check_values(kind, through, label, alpha, tau, two_class_tokens)
    label_loss_fn: LabelLoss = label_loss if label == "ce" else bce_loss
    if class_shares is not None:
        if label != "ce":
            raise UsageError(
                "classes are balanced in the cross-entropy alone, and the label loss is bce",
                hint="Use --set optim.label_loss=ce, or leave --balance out",
            )
        label_loss_fn = partial(balanced_label_loss, class_shares=class_shares)
    if kind == "none":
        return partial(_labels_only, label_loss_fn=label_loss_fn, needs_two_heads=two_class_tokens)
    follow_teacher: LabelLoss = hard_distillation_loss
    if kind == "soft":
        follow_teacher = partial(soft_distillation_loss, tau=tau, compat_deit=compat_deit)
    combine = _through_token if through == "token" else _through_class
    return partial(combine, label_loss_fn=label_loss_fn, follow_teacher=follow_teacher, alpha=alpha)


def _labels_only(
    heads: HeadLogits,
    targets: Tensor,
    teacher_logits: Tensor | None,
    *,
    label_loss_fn: LabelLoss,
    needs_two_heads: bool,
) -> Tensor:
    class_loss = label_loss_fn(heads.class_logits, targets)
    if heads.distill_logits is not None:
        return (class_loss + label_loss_fn(heads.distill_logits, targets)) / 2
    if needs_two_heads:
        raise _no_second_head("two class tokens")
    return class_loss


def _through_token(
    heads: HeadLogits,
    targets: Tensor,
    teacher_logits: Tensor | None,
    *,
    label_loss_fn: LabelLoss,
    follow_teacher: LabelLoss,
    alpha: float,
) -> Tensor:
    if heads.distill_logits is None:
        raise _no_second_head("distillation through the token")
    teacher_loss = follow_teacher(heads.distill_logits, _given(teacher_logits))
    return (1 - alpha) * label_loss_fn(heads.class_logits, targets) + alpha * teacher_loss


def _through_class(
    heads: HeadLogits,
    targets: Tensor,
    teacher_logits: Tensor | None,
    *,
    label_loss_fn: LabelLoss,
    follow_teacher: LabelLoss,
    alpha: float,
) -> Tensor:
    if heads.distill_logits is not None:
        raise UsageError(
            "distillation through the class head would leave this model's distillation head "
            "untrained, yet averaged into its predictions",
            hint='Choose a model without "_distilled" in its name, or distill through the token',
        )
    teacher_loss = follow_teacher(heads.class_logits, _given(teacher_logits))
    return (1 - alpha) * label_loss_fn(heads.class_logits, targets) + alpha * teacher_loss


def _given(teacher_logits: Tensor | None) -> Tensor:
    if teacher_logits is None:
        raise ValueError("this objective needs teacher_logits (B, K), got None")
    return teacher_logits


def _no_second_head(what: str) -> UsageError:
    return UsageError(
        f"{what} needs a model with a distillation head, and this one has none",
        hint='Choose a model with "_distilled" in its name',
    )


def _check_values(
    kind: str, through: str, label: str, alpha: float, tau: float, two_class_tokens: bool
) -> None:
    _check_choice("distillation kind", kind, ("none", "soft", "hard"))
    _check_choice("head for the teacher", through, ("token", "class"))
    _check_choice("label loss", label, ("ce", "bce"))
    if not 0 <= alpha <= 1:
        raise UsageError(f"alpha is {alpha}; the teacher's weight lies in [0, 1]")
    if not (tau > 0 and math.isfinite(tau)):
        raise UsageError(f"tau is {tau}; a temperature lies above 0")
    if two_class_tokens and kind != "none":
        raise UsageError(
            f"two class tokens both learn the true label, so {kind} distillation has no head left",
            hint="Drop the teacher, or the two class tokens",
        )


def _check_choice(what: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise UsageError(f"{what} {value!r} is not one of {', '.join(choices)}")
