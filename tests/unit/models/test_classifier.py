"""The classifier's heads, tokens, resolutions, drawn parameters and attention, against timm."""

import pytest
import timm
import torch
import torch.nn.functional as F

from deit_transfer.errors import UsageError
from deit_transfer.models.classifier import (
    Classifier,
    build_classifier,
    describe_parameters,
    set_attention,
)

MICRO = {"patch_size": 4, "embed_dim": 96, "depth": 4, "num_heads": 3}


def build_micro(name: str = "deit_micro", *, resolution: int = 32, **options: float) -> Classifier:
    torch.manual_seed(0)
    return build_classifier(name=name, num_classes=5, resolution=resolution, **options)


def random_images(count: int = 2, resolution: int = 32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(count, 3, resolution, resolution, generator=generator)


@pytest.mark.parametrize("training", [True, False])
def test_a_distilled_network_answers_with_both_heads(training: bool) -> None:
    classifier = build_micro("deit_micro_distilled").train(training)
    reference = timm.create_model(
        "deit_tiny_distilled_patch16_224", num_classes=5, img_size=32, **MICRO
    )
    reference.load_state_dict(classifier.backbone.state_dict())
    reference.set_distilled_training(True)
    class_logits, distill_logits = reference.train()(random_images())

    heads = classifier(random_images())

    torch.testing.assert_close(heads.class_logits, class_logits, rtol=0, atol=0)
    torch.testing.assert_close(heads.distill_logits, distill_logits, rtol=0, atol=0)
    assert not torch.equal(heads.class_logits, heads.distill_logits)


def test_a_plain_network_answers_with_its_class_head() -> None:
    classifier = build_micro().eval()
    heads = classifier(random_images())
    torch.testing.assert_close(heads.class_logits, classifier.backbone(random_images()))
    assert heads.distill_logits is None


def test_a_convnet_answers_with_its_class_head() -> None:
    classifier = build_classifier(name="resnet10t", num_classes=4, resolution=64).eval()
    heads = classifier(random_images(resolution=64))
    assert heads.class_logits.shape == (2, 4)
    assert heads.distill_logits is None
    assert describe_parameters(classifier).heads == 512 * 4 + 4


def test_parameters_are_drawn_as_the_paper_draws_them() -> None:
    backbone = build_micro("deit_micro_distilled").backbone
    for key in ("cls_token", "dist_token", "pos_embed", "head.weight", "blocks.0.mlp.fc1.weight"):
        tensor = backbone.get_parameter(key)
        assert tensor.std().item() == pytest.approx(0.02, rel=0.3), key
    assert not backbone.get_parameter("head_dist.bias").any()
    assert not torch.equal(backbone.head.weight, backbone.head_dist.weight)


def test_tokens_by_layer_end_in_the_final_tokens() -> None:
    classifier = build_micro("deit_micro_distilled").eval()
    backbone = classifier.backbone

    layers = classifier.forward_layers(random_images())
    tokens = classifier.forward_tokens(random_images())

    assert layers.shape == (5, 2, 2, 96)
    at_input = torch.cat([backbone.cls_token, backbone.dist_token], 1) + backbone.pos_embed[:, :2]
    torch.testing.assert_close(layers[0], at_input.expand(2, -1, -1))
    torch.testing.assert_close(backbone.norm(layers[-1]), tokens)
    torch.testing.assert_close(
        backbone.head(tokens[:, 0]), classifier(random_images()).class_logits
    )
    assert not backbone.blocks[0]._forward_hooks


def test_a_convnet_has_no_tokens() -> None:
    classifier = build_classifier(name="resnet10t", num_classes=4, resolution=64)
    with pytest.raises(UsageError, match="no class token"):
        classifier.forward_tokens(random_images(resolution=64))


@pytest.mark.parametrize("name", ["deit_micro", "deit_micro_distilled"])
def test_dynamic_resolution_changes_nothing_at_the_native_resolution(name: str) -> None:
    plain, dynamic = build_micro(name).eval(), build_micro(name, dynamic_resolution=True).eval()
    dynamic.load_state_dict(plain.state_dict(), strict=True)

    for expected, logits in zip(plain(random_images()), dynamic(random_images()), strict=True):
        if expected is not None:
            torch.testing.assert_close(logits, expected, rtol=0, atol=0)


def test_dynamic_resolution_resamples_the_positions() -> None:
    dynamic = build_micro("deit_micro_distilled", dynamic_resolution=True).eval()
    small = build_micro("deit_micro_distilled", resolution=24).eval()
    state = dynamic.backbone.state_dict()
    grid = state["pos_embed"][:, 2:].reshape(1, 8, 8, 96).permute(0, 3, 1, 2)
    resized = F.interpolate(grid, size=(6, 6), mode="bicubic", antialias=True)
    patches = resized.permute(0, 2, 3, 1).reshape(1, 36, 96)
    state["pos_embed"] = torch.cat([state["pos_embed"][:, :2], patches], dim=1)
    small.backbone.load_state_dict(state)

    images = random_images(resolution=24)
    torch.testing.assert_close(dynamic(images).distill_logits, small(images).distill_logits)
    dynamic.train()(images).class_logits.sum().backward()
    assert dynamic.backbone.pos_embed.grad is not None


def test_a_network_of_one_resolution_refuses_another() -> None:
    with pytest.raises(AssertionError):
        build_micro()(random_images(resolution=24))


@pytest.mark.parametrize("name", ["deit_micro", "vit_tiny_patch16_224"])
def test_a_resolution_that_patches_do_not_divide_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="nearest"):
        build_classifier(name=name, num_classes=3, resolution=50)


def test_stochastic_depth_and_dropout_act_where_the_paper_has_them() -> None:
    backbone = build_micro(drop_path=0.3, drop=0.1).backbone
    rates = [getattr(block.drop_path1, "drop_prob", 0.0) for block in backbone.blocks]
    assert rates == pytest.approx([0.0, 0.1, 0.2, 0.3])
    assert backbone.pos_drop.p == pytest.approx(0.1)
    assert backbone.blocks[0].attn.proj_drop.p == pytest.approx(0.1)
    assert backbone.blocks[0].mlp.drop1.p == pytest.approx(0.1)
    assert backbone.blocks[0].attn.attn_drop.p == 0.0
    assert backbone.head_drop.p == 0.0


def test_an_option_that_a_network_lacks_is_refused() -> None:
    with pytest.raises(UsageError, match=r"drop_path_rate=0\.2"):
        build_classifier(name="vgg11", num_classes=2, resolution=32, drop_path=0.2)
    with pytest.raises(ValueError, match="num_classes"):
        build_classifier(name="deit_micro", num_classes=0)


def test_two_class_tokens_need_a_distilled_network() -> None:
    build = {"num_classes": 3, "two_class_tokens": True}
    assert build_classifier(name="deit_micro_distilled", **build).two_class_tokens
    with pytest.raises(UsageError, match="two class tokens need a distilled network"):
        build_classifier(name="deit_micro", **build)


def test_parameters_are_counted() -> None:
    classifier = build_micro("deit_micro_distilled")
    classifier.backbone.pos_embed.requires_grad_(False)

    counts = describe_parameters(classifier)

    assert counts.heads == 2 * (96 * 5 + 5)
    assert counts.total == counts.backbone + counts.heads
    assert counts.total == sum(p.numel() for p in classifier.parameters())
    assert counts.total - counts.trainable == 66 * 96


def test_fused_and_plain_attention_agree() -> None:
    classifier = build_micro().eval()
    set_attention(classifier, "fused")
    fused = classifier(random_images()).class_logits
    set_attention(classifier, "plain")
    plain = classifier(random_images()).class_logits

    assert not any(block.attn.fused_attn for block in classifier.backbone.blocks)
    torch.testing.assert_close(fused, plain, rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match="'fused' or 'plain'"):
        set_attention(classifier, "flash")  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["deit_micro", "deit_micro_distilled"])
def test_patch_drop_leaves_out_patches_and_never_a_token(name: str) -> None:
    torch.manual_seed(0)
    classifier = build_classifier(name=name, num_classes=3, patch_drop=0.75)
    backbone = classifier.backbone
    num_tokens = backbone.num_prefix_tokens
    embedded = torch.arange(64.0 + num_tokens).reshape(1, -1, 1).expand(5, -1, 4)
    kept = backbone.train().patch_drop(embedded)[..., 0]  # (5, tokens + patches kept)
    assert kept.shape == (5, num_tokens + 16)
    assert (kept[:, :num_tokens] == torch.arange(num_tokens)).all()
    assert len({tuple(row.tolist()) for row in kept}) == 5  # each image leaves out others
    assert backbone.eval().patch_drop(embedded).shape == embedded.shape


def test_patch_drop_needs_patches() -> None:
    with pytest.raises(UsageError, match="patch_drop_rate"):
        build_classifier(name="resnet10t", num_classes=3, patch_drop=0.5)
