"""Compare the objectives with a second, plainer writing in NumPy of the paper's equations."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from deit_transfer.batch import HeadLogits
from deit_transfer.engine.losses import (
    bce_loss,
    hard_distillation_loss,
    label_loss,
    late_fusion,
    make_objective,
    soft_distillation_loss,
)
from deit_transfer.errors import UsageError

B, K = 5, 7


def np_softmax(z: np.ndarray) -> np.ndarray:
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def np_cross_entropy(z: np.ndarray, targets: np.ndarray) -> float:
    losses = []
    for row, target in zip(np_softmax(z), targets, strict=True):
        losses.append(-sum(t * np.log(p) for t, p in zip(target, row, strict=True)))
    return float(np.mean(losses))


def np_kl(student: np.ndarray, teacher: np.ndarray, tau: float) -> float:
    total = 0.0
    for p, q in zip(np_softmax(teacher / tau), np_softmax(student / tau), strict=True):
        total += sum(a * np.log(a / b) for a, b in zip(p, q, strict=True))
    return tau * tau * total / len(student)


def np_bce(z: np.ndarray, targets: np.ndarray) -> float:
    p = 1 / (1 + np.exp(-z))
    asked = targets > 0
    return float(np.mean(-np.where(asked, np.log(p), np.log(1 - p))))


def one_hot(labels: np.ndarray) -> np.ndarray:
    return np.eye(K)[labels]


@pytest.fixture
def z() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(3)
    labels = rng.integers(0, K, B)
    hard = one_hot(labels)
    return {
        "class": rng.normal(0, 2, (B, K)),
        "distill": rng.normal(0, 2, (B, K)),
        "teacher": rng.normal(0, 3, (B, K)),
        "hard": hard,
        "smooth": 0.9 * hard + 0.1 / K,
        "mixed": 0.3 * hard + 0.7 * hard[::-1],
    }


def t(array: np.ndarray) -> torch.Tensor:
    return torch.tensor(array.copy(), dtype=torch.float32)


@pytest.mark.parametrize("kind", ["hard", "smooth", "mixed"])
def test_label_loss_is_the_cross_entropy(z: dict[str, np.ndarray], kind: str) -> None:
    ours = label_loss(t(z["class"]), t(z[kind]))
    assert float(ours) == pytest.approx(np_cross_entropy(z["class"], z[kind]), rel=1e-5)


def test_bce_asks_for_every_class_above_zero(z: dict[str, np.ndarray]) -> None:
    for kind in ("hard", "mixed"):
        ours = bce_loss(t(z["class"]), t(z[kind]))
        assert float(ours) == pytest.approx(np_bce(z["class"], z[kind]), rel=1e-5)


def test_bce_refuses_smoothed_targets(z: dict[str, np.ndarray]) -> None:
    with pytest.raises(UsageError, match="more than two classes") as caught:
        bce_loss(t(z["class"]), t(z["smooth"]))
    assert "smoothing to 0" in caught.value.hint


@pytest.mark.parametrize("tau", [1.0, 3.0])
def test_soft_distillation_is_the_kl_per_sample(z: dict[str, np.ndarray], tau: float) -> None:
    ours = soft_distillation_loss(t(z["distill"]), t(z["teacher"]), tau=tau)
    expected = np_kl(z["distill"], z["teacher"], tau)
    assert float(ours) == pytest.approx(expected, rel=1e-4)
    compat = soft_distillation_loss(t(z["distill"]), t(z["teacher"]), tau=tau, compat_deit=True)
    assert float(compat) == pytest.approx(expected / K, rel=1e-4)


def test_soft_distillation_of_the_same_logits_is_zero(z: dict[str, np.ndarray]) -> None:
    same = soft_distillation_loss(t(z["teacher"]), t(z["teacher"]), tau=3.0)
    assert float(same) == pytest.approx(0, abs=1e-6)


def test_soft_gradient_keeps_its_size_over_tau() -> None:
    # Hinton: with tau^2 the gradient tends to (zs - zt) / K for large tau, whatever tau is.
    torch.manual_seed(0)
    teacher = torch.randn(B, K)
    teacher -= teacher.mean(dim=1, keepdim=True)
    for tau in (50.0, 100.0):
        student = torch.zeros(B, K, requires_grad=True)
        soft_distillation_loss(student, teacher, tau=tau).backward()
        assert student.grad is not None
        torch.testing.assert_close(student.grad, -teacher / K / B, rtol=0.1, atol=2e-3)


def test_hard_distillation_follows_the_decision(z: dict[str, np.ndarray]) -> None:
    decisions = one_hot(z["teacher"].argmax(axis=1))
    ours = hard_distillation_loss(t(z["distill"]), t(z["teacher"]))
    assert float(ours) == pytest.approx(np_cross_entropy(z["distill"], decisions), rel=1e-5)


@pytest.mark.parametrize("label", ["ce", "bce"])
@pytest.mark.parametrize("through", ["token", "class"])
@pytest.mark.parametrize(
    ("kind", "alpha", "tau"), [("soft", 0.1, 3.0), ("hard", 0.5, 1.0), ("hard", 0.2, 1.0)]
)
def test_objective_weighs_label_and_teacher(
    z: dict[str, np.ndarray], label: str, through: str, kind: str, alpha: float, tau: float
) -> None:
    base = {"ce": np_cross_entropy, "bce": np_bce}[label](z["class"], z["mixed"])
    answers = z["distill" if through == "token" else "class"]
    if kind == "soft":
        taught = np_kl(answers, z["teacher"], tau)
    else:
        taught = np_cross_entropy(answers, one_hot(z["teacher"].argmax(axis=1)))
    objective = make_objective(kind=kind, through=through, label=label, alpha=alpha, tau=tau)
    heads = HeadLogits(t(z["class"]), t(z["distill"]) if through == "token" else None)
    ours = objective(heads, t(z["mixed"]), t(z["teacher"]))
    assert float(ours) == pytest.approx((1 - alpha) * base + alpha * taught, rel=1e-4)


def test_without_teacher_both_heads_learn_the_label(z: dict[str, np.ndarray]) -> None:
    on_class = np_cross_entropy(z["class"], z["smooth"])
    on_distill = np_cross_entropy(z["distill"], z["smooth"])
    two_heads = HeadLogits(t(z["class"]), t(z["distill"]))
    for two_class_tokens in (False, True):
        objective = make_objective(kind="none", two_class_tokens=two_class_tokens)
        ours = objective(two_heads, t(z["smooth"]), None)
        assert float(ours) == pytest.approx((on_class + on_distill) / 2, rel=1e-5)
    plain = make_objective(kind="none")(HeadLogits(t(z["class"]), None), t(z["smooth"]), None)
    assert float(plain) == pytest.approx(on_class, rel=1e-5)


def test_gradient_reaches_the_head_that_answers(z: dict[str, np.ndarray]) -> None:
    logits = {name: t(z[name]).requires_grad_() for name in ("class", "distill", "teacher")}
    heads = HeadLogits(logits["class"], logits["distill"])
    objective = make_objective(kind="hard", through="token", alpha=1.0)
    objective(heads, t(z["hard"]), logits["teacher"]).backward()
    assert float(logits["class"].grad.abs().sum()) == 0
    assert float(logits["distill"].grad.abs().sum()) > 0
    assert logits["teacher"].grad is None


def test_late_fusion_decides_like_the_sum_of_softmaxes(z: dict[str, np.ndarray]) -> None:
    joint = late_fusion(HeadLogits(t(z["class"]), t(z["distill"]))).numpy()
    expected = np_softmax(z["class"]) + np_softmax(z["distill"])
    np.testing.assert_allclose(2 * joint, expected, rtol=1e-5)
    np.testing.assert_allclose(joint.sum(axis=1), 1, rtol=1e-5)
    alone = late_fusion(HeadLogits(t(z["class"]), None)).numpy()
    np.testing.assert_allclose(alone, np_softmax(z["class"]), rtol=1e-5)


def test_half_precision_logits_are_summed_in_float32(z: dict[str, np.ndarray]) -> None:
    logits = t(z["class"]).bfloat16()
    assert label_loss(logits, t(z["hard"])).dtype == torch.float32
    assert float(label_loss(logits, t(z["hard"]))) == float(
        label_loss(logits.float(), t(z["hard"]))
    )


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"kind": "medium"}, "medium"),
        ({"kind": "soft", "through": "patch"}, "patch"),
        ({"kind": "soft", "label": "mse"}, "mse"),
        ({"kind": "soft", "alpha": 1.1}, "1.1"),
        ({"kind": "soft", "tau": 0.0}, "0.0"),
        ({"kind": "hard", "two_class_tokens": True}, "two class tokens"),
    ],
)
def test_impossible_objectives_are_refused(values: dict, named: str) -> None:
    with pytest.raises(UsageError, match=named):
        make_objective(**values)


def test_heads_that_do_not_fit_are_refused(z: dict[str, np.ndarray]) -> None:
    one, two = HeadLogits(t(z["class"]), None), HeadLogits(t(z["class"]), t(z["distill"]))
    targets, teacher = t(z["hard"]), t(z["teacher"])
    with pytest.raises(UsageError, match="distillation head"):
        make_objective(kind="hard", through="token")(one, targets, teacher)
    with pytest.raises(UsageError, match="untrained"):
        make_objective(kind="hard", through="class")(two, targets, teacher)
    with pytest.raises(UsageError, match="two class tokens"):
        make_objective(kind="none", two_class_tokens=True)(one, targets, None)
    with pytest.raises(ValueError, match="teacher_logits"):
        make_objective(kind="hard", through="token")(two, targets, None)


def test_a_balanced_loss_adds_the_logarithm_of_each_classs_share() -> None:
    torch.manual_seed(0)
    logits, targets = torch.randn(5, 3), F.one_hot(torch.tensor([0, 0, 0, 1, 2]), 3).float()
    shares = torch.tensor([0.6, 0.3, 0.1])
    ours = make_objective(kind="none", class_shares=shares)(HeadLogits(logits, None), targets, None)
    weighted = shares * logits.exp()  # (B, K)
    expected = -(weighted / weighted.sum(1, keepdim=True)).log()[torch.arange(5), targets.argmax(1)]
    assert ours.item() == pytest.approx(expected.mean().item(), rel=1e-6)


def test_a_balanced_loss_of_constant_logits_is_least_where_they_are_equal() -> None:
    """A network that sees nothing answers every class alike, and not the most frequent one."""
    targets = F.one_hot(torch.tensor([0] * 8 + [1] * 2), 2).float()
    balanced = make_objective(kind="none", class_shares=targets.mean(0))
    logits = torch.tensor([1.0, -2.0], requires_grad=True)
    optimizer = torch.optim.LBFGS([logits], max_iter=100)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = balanced(HeadLogits(logits.expand(10, 2), None), targets, None)
        loss.backward()
        return loss

    optimizer.step(closure)
    assert logits[0].item() == pytest.approx(logits[1].item(), abs=1e-3)


def test_a_balanced_loss_is_cross_entropy_only() -> None:
    with pytest.raises(UsageError, match="balanced in the cross-entropy alone"):
        make_objective(kind="none", label="bce", class_shares=torch.ones(3) / 3)
