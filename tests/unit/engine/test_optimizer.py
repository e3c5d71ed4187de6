"""Compare the parameter groups with a list made by hand, on a small network of timm's own."""

import copy

import pytest
import timm
import torch
from timm.optim import create_optimizer_v2
from torch import nn

from deit_transfer.engine.optimizer import check_coverage, make_optimizer
from deit_transfer.errors import UsageError

NO_DECAY = {"cls_token", "dist_token", "pos_embed"}
DEPTH = 2


@pytest.fixture
def backbone() -> nn.Module:
    return timm.create_model(
        "deit_tiny_distilled_patch16_224",
        pretrained=False,
        img_size=16,
        patch_size=8,
        embed_dim=12,
        depth=DEPTH,
        num_classes=3,
    )


def groups_by_name(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, dict]:
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {names[id(p)]: group for group in optimizer.param_groups for p in group["params"]}


def adamw(backbone: nn.Module, **values: object) -> torch.optim.Optimizer:
    return make_optimizer(backbone, name="adamw", peak_lr=1e-3, weight_decay=0.05, **values)


@pytest.mark.parametrize("layer_decay", [None, 0.5])
def test_each_parameter_once_and_decay_by_hand(
    backbone: nn.Module, layer_decay: float | None
) -> None:
    optimizer = adamw(backbone, layer_decay=layer_decay)
    held = [p for group in optimizer.param_groups for p in group["params"]]
    assert sorted(map(id, held)) == sorted(map(id, backbone.parameters()))
    for name, group in groups_by_name(backbone, optimizer).items():
        spared = name in NO_DECAY or name.endswith(".bias") or "norm" in name
        assert group["weight_decay"] == (0 if spared else 0.05), name


def test_layer_decay_by_hand(backbone: nn.Module) -> None:
    for name, group in groups_by_name(backbone, adamw(backbone, layer_decay=0.5)).items():
        if name.startswith("head"):
            above = 0
        elif name.startswith("norm"):
            above = 1  # the final norm goes with the last block
        elif name.startswith("blocks."):
            above = DEPTH - int(name.split(".")[1])
        else:
            above = DEPTH + 1
        assert group["lr_scale"] == 0.5**above, name


def test_frozen_parameters_are_left_out(backbone: nn.Module) -> None:
    for name, parameter in backbone.named_parameters():
        parameter.requires_grad = name.startswith("head")
    for layer_decay in (None, 0.75):
        for weight_decay in (0.0, 0.1):
            optimizer = make_optimizer(
                backbone,
                name="sgd",
                peak_lr=0.1,
                weight_decay=weight_decay,
                layer_decay=layer_decay,
            )
            named = groups_by_name(backbone, optimizer)
            assert set(named) == {"head.weight", "head.bias", "head_dist.weight", "head_dist.bias"}


def test_the_fused_update_is_the_plain_one(backbone: nn.Module) -> None:
    plainly_updated = copy.deepcopy(backbone)
    fused = adamw(backbone, layer_decay=0.75)
    plain = create_optimizer_v2(
        plainly_updated, opt="adamw", lr=1e-3, weight_decay=0.05, layer_decay=0.75, foreach=False
    )
    assert all(group["fused"] for group in fused.param_groups)
    for seed in range(20):
        for model, optimizer in ((backbone, fused), (plainly_updated, plain)):
            torch.manual_seed(seed)
            for parameter in model.parameters():
                parameter.grad = torch.randn(parameter.shape)
            optimizer.step()
    for ours, theirs in zip(backbone.parameters(), plainly_updated.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-7)


def test_options_reach_the_optimizer(backbone: nn.Module) -> None:
    optimizer = adamw(backbone, betas=(0.8, 0.7), eps=1e-5)
    assert isinstance(optimizer, torch.optim.AdamW)
    assert optimizer.defaults["betas"] == (0.8, 0.7)
    assert optimizer.defaults["eps"] == 1e-5
    sgd = make_optimizer(backbone, name="sgd", peak_lr=0.1, weight_decay=0, momentum=0.8)
    assert sgd.defaults["momentum"] == 0.8
    assert sgd.defaults["nesterov"]
    lamb = make_optimizer(backbone, name="lamb", peak_lr=0.1, weight_decay=0.02)
    assert type(lamb).__name__ == "Lamb"


def test_refusals(backbone: nn.Module) -> None:
    with pytest.raises(UsageError, match="adamw, sgd, lamb"):
        make_optimizer(backbone, name="adam", peak_lr=1e-3, weight_decay=0)
    backbone.requires_grad_(False)
    with pytest.raises(UsageError, match="frozen"):
        adamw(backbone)


def test_coverage_names_what_is_wrong() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    short = torch.optim.SGD(model[0].parameters(), lr=0.1)
    with pytest.raises(ValueError, match=r"missing \['1.weight', '1.bias'\]"):
        check_coverage(model, short)
    model[0].weight.requires_grad = False
    with pytest.raises(ValueError, match="not the model's 1"):
        check_coverage(model, torch.optim.SGD(model.parameters(), lr=0.1))
