"""Fitting starts to networks: every tensor accounted for, positions against torch's own bicubic."""

import json
import sys
import warnings
from collections import Counter

import pytest
import timm
import torch
import torch.nn.functional as F

from deit_transfer.errors import CheckpointError
from deit_transfer.models.checkpoint_adaptation import (
    LoadReport,
    fitting_model,
    guess_variant,
    load_pretrained,
)
from deit_transfer.models.classifier import Classifier, build_classifier
from deit_transfer.models.pos_embed import resize_grid, split_positions
from deit_transfer.models.pretrained import PretrainedWeights

HEAD = ("head.weight", "head.bias")
DISTILL_HEAD = ("head_dist.weight", "head_dist.bias")


def build(
    name: str = "deit_micro", *, classes: int = 5, resolution: int | None = None, seed: int = 0
) -> Classifier:
    torch.manual_seed(seed)
    return build_classifier(name=name, num_classes=classes, resolution=resolution)


def start_from(classifier: Classifier) -> PretrainedWeights:
    state_dict = {key: value.clone() for key, value in classifier.backbone.state_dict().items()}
    return PretrainedWeights(state_dict, f"a {classifier.name}")


def actions(report: LoadReport) -> dict[str, str]:
    return {item.key: item.action for item in report.items}


def details(report: LoadReport) -> dict[str, str]:
    return {item.key: item.detail for item in report.items}


def bicubic(positions: torch.Tensor, *, num_tokens: int, old: int, new: int) -> torch.Tensor:
    """Write the resizing again: one channel at a time, as an image."""
    width = positions.shape[-1]
    images = positions[0, num_tokens:].T.reshape(width, 1, old, old)
    resized = F.interpolate(images, size=(new, new), mode="bicubic")
    patches = resized.reshape(width, new * new).T
    return torch.cat([positions[0, :num_tokens], patches])[None]


@pytest.mark.parametrize("name", ["deit_tiny_patch16_224", "deit_tiny_distilled_patch16_224"])
def test_positions_from_224_to_384_are_torch_s_bicubic(name: str) -> None:
    start = start_from(build(name, classes=7))
    network = build(name, classes=7, resolution=384, seed=1)
    num_tokens = network.backbone.num_prefix_tokens

    report = load_pretrained(network, start)

    found = network.backbone.pos_embed.detach()
    source = start.state_dict["pos_embed"]
    expected = bicubic(source, num_tokens=num_tokens, old=14, new=24)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    assert torch.equal(found[:, :num_tokens], source[:, :num_tokens])
    assert torch.equal(network.backbone.cls_token, start.state_dict["cls_token"])
    assert actions(report)["pos_embed"] == "interpolated"
    assert "14x14 to 24x24" in details(report)["pos_embed"]
    others = Counter(action for key, action in actions(report).items() if "head" not in key)
    assert others["interpolated"] == 1
    assert others["initialized"] == 0


def test_bicubic_keeps_the_norm_of_the_positions_that_bilinear_shrinks() -> None:
    grid = torch.randn(1, 14, 14, 64, generator=torch.Generator().manual_seed(0))
    bilinear = F.interpolate(grid.permute(0, 3, 1, 2), size=(24, 24), mode="bilinear")
    assert resize_grid(grid, new_grid=(24, 24)).norm(dim=-1).mean() > bilinear.norm(dim=1).mean()
    assert resize_grid(grid, new_grid=(14, 14)) is grid


def test_positions_that_are_not_square_are_refused() -> None:
    with pytest.raises(ValueError, match="12 patch positions"):
        split_positions(torch.zeros(1, 13, 4), num_tokens=1)
    start = start_from(build())
    state_dict = dict(start.state_dict)
    state_dict["pos_embed"] = torch.zeros(1, 1 + 12, 96)
    with pytest.raises(CheckpointError, match="12 patch positions do not form a square grid"):
        load_pretrained(build(), PretrainedWeights(state_dict, "a start"))


@pytest.mark.parametrize(
    ("source", "target"),
    [
        ("deit_micro", "deit_micro"),
        ("deit_micro", "deit_micro_distilled"),
        ("deit_micro_distilled", "deit_micro"),
        ("deit_micro_distilled", "deit_micro_distilled"),
    ],
)
@pytest.mark.parametrize("resolution", [32, 40])
def test_every_tensor_has_exactly_one_line(source: str, target: str, resolution: int) -> None:
    start = start_from(build(source, classes=9))
    network = build(target, resolution=resolution, seed=1)

    report = load_pretrained(network, start)

    counts = Counter(item.key for item in report.items)
    assert set(counts.values()) == {1}
    dropped = {item.key for item in report.items if item.action == "dropped"}
    assert set(counts) - dropped == set(network.backbone.state_dict())
    assert dropped == set(start.state_dict) - set(network.backbone.state_dict())
    sizes = {key: value.numel() for key, value in network.backbone.state_dict().items()}
    assert all(item.size == sizes[item.key] for item in report.items if item.key in sizes)
    percents = report.percents
    assert percents["copied"] + percents["interpolated"] + percents["initialized"] == pytest.approx(
        100
    )
    assert report.coverage > 99


def test_from_plain_to_distilled_the_second_token_is_drawn() -> None:
    start = start_from(build())
    network = build("deit_micro_distilled", seed=1)
    drawn = {key: value.clone() for key, value in network.backbone.state_dict().items()}

    report = load_pretrained(network, start)

    loaded = network.backbone.state_dict()
    for key in ("dist_token", *HEAD, *DISTILL_HEAD):
        assert torch.equal(loaded[key], drawn[key]), key
        assert actions(report)[key] == "initialized"
    positions, given = loaded["pos_embed"], start.state_dict["pos_embed"]
    assert torch.equal(positions[:, 0], given[:, 0])
    assert torch.equal(positions[:, 1], drawn["pos_embed"][:, 1])
    assert torch.equal(positions[:, 2:], given[:, 1:])
    assert "position initialized" in details(report)["pos_embed"]
    assert torch.equal(
        loaded["blocks.3.mlp.fc2.weight"], start.state_dict["blocks.3.mlp.fc2.weight"]
    )


def test_from_distilled_to_plain_the_second_token_is_dropped() -> None:
    start = start_from(build("deit_micro_distilled"))
    network = build(seed=1)

    report = load_pretrained(network, start)

    given = start.state_dict["pos_embed"]
    expected = torch.cat([given[:, :1], given[:, 2:]], dim=1)
    assert torch.equal(network.backbone.pos_embed, expected)
    assert "position dropped" in details(report)["pos_embed"]
    for key in ("dist_token", *DISTILL_HEAD):
        assert actions(report)[key] == "dropped"
        assert "distillation" in details(report)[key]


def test_plain_to_distilled_to_plain_is_the_same_backbone_bit_for_bit() -> None:
    start = start_from(build())
    distilled, again = build("deit_micro_distilled", seed=1), build(seed=2)
    load_pretrained(distilled, start)
    load_pretrained(again, start_from(distilled))
    for key, value in again.backbone.state_dict().items():
        if not key.startswith("head."):
            assert torch.equal(value, start.state_dict[key]), key


@pytest.mark.parametrize("source", ["deit_micro", "deit_micro_distilled"])
def test_the_start_s_features_are_reproduced(source: str) -> None:
    given = build(source).eval()
    network = build(source, seed=1).eval()
    load_pretrained(network, start_from(given))
    images = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(
        network.forward_tokens(images), given.forward_tokens(images), rtol=0, atol=0
    )


class TestHeads:
    def test_as_many_classes_are_not_the_same_classes(self) -> None:
        start = start_from(build(classes=5))
        network = build(classes=5, seed=1)
        drawn = network.backbone.head.weight.clone()

        report = load_pretrained(network, start)

        assert torch.equal(network.backbone.head.weight, drawn)
        assert actions(report)["head.weight"] == "initialized"
        said = "new; model.keep_head keeps the one in the weights if its 5 classes are the same"
        assert details(report)["head.weight"] == said

    def test_keep_head_takes_the_heads_too(self) -> None:
        start = start_from(build("deit_micro_distilled"))
        network = build("deit_micro_distilled", seed=1)
        report = load_pretrained(network, start, keep_head=True)
        for key, value in network.backbone.state_dict().items():
            assert torch.equal(value, start.state_dict[key]), key
        assert report.percents["copied"] == 100

    def test_keep_head_draws_a_distillation_head_that_the_start_lacks(self) -> None:
        network = build("deit_micro_distilled", seed=1)
        report = load_pretrained(network, start_from(build()), keep_head=True)
        assert actions(report)["head.weight"] == "copied"
        assert actions(report)["head_dist.weight"] == "initialized"

    def test_keep_head_with_other_classes_is_refused(self) -> None:
        network = build(classes=5, seed=1)
        before = {key: value.clone() for key, value in network.backbone.state_dict().items()}
        with pytest.raises(CheckpointError, match="1000 classes in the weights, 5 here"):
            load_pretrained(network, start_from(build(classes=1000)), keep_head=True)
        assert all(torch.equal(v, before[k]) for k, v in network.backbone.state_dict().items())

    def test_a_thousand_classes_are_replaced_by_five(self) -> None:
        report = load_pretrained(build(classes=5), start_from(build(classes=1000)))
        assert details(report)["head.weight"] == "1000 classes in the weights, 5 here"

    def test_a_convnet_has_its_own_head(self) -> None:
        given = build("resnet10t", classes=5, resolution=64)
        network = build("resnet10t", classes=5, resolution=64, seed=1)
        report = load_pretrained(network, start_from(given))
        initialized = {key for key, action in actions(report).items() if action == "initialized"}
        assert initialized == {"fc.weight", "fc.bias"}
        assert torch.equal(network.backbone.bn1.running_var, given.backbone.bn1.running_var)


class TestCoverage:
    def test_another_network_is_refused_and_recognized(self) -> None:
        network = build(seed=1)
        before = {key: value.clone() for key, value in network.backbone.state_dict().items()}
        start = start_from(build("deit_tiny_distilled_patch16_224"))

        with pytest.raises(CheckpointError, match=r"covers 0\.0% .* at least 90%") as caught:
            load_pretrained(network, start)

        assert "--model deit_tiny_distilled_patch16_224" in caught.value.hint
        assert all(torch.equal(v, before[k]) for k, v in network.backbone.state_dict().items())

    def test_the_threshold_is_counted_in_backbone_parameters(self) -> None:
        given = start_from(build())
        state_dict = {k: v for k, v in given.state_dict.items() if not k.startswith("blocks.3.")}
        start = PretrainedWeights(state_dict, "three blocks of four")
        network = build(seed=1)
        block = sum(p.numel() for p in network.backbone.blocks[3].parameters())
        backbone = sum(p.numel() for p in network.parameters()) - (96 * 5 + 5)
        expected = 100 * (1 - block / backbone)

        with pytest.raises(CheckpointError, match=f"covers {expected:.1f}%") as caught:
            load_pretrained(network, start)
        assert "blocks.3" in caught.value.message
        report = load_pretrained(network, start, min_coverage=expected / 100 - 1e-6)
        assert report.coverage == pytest.approx(expected)

    def test_a_start_from_nothing_loads_nothing(self) -> None:
        network = build()
        before = {key: value.clone() for key, value in network.backbone.state_dict().items()}
        report = load_pretrained(network, PretrainedWeights({}, "nothing"))
        assert report.coverage == 0
        assert report.percents["initialized"] == 100
        assert report.summary[0] == "start: nothing"
        assert not any(item.detail for item in report.items)
        assert all(torch.equal(v, before[k]) for k, v in network.backbone.state_dict().items())

    def test_variants_are_recognized_by_their_shapes(self) -> None:
        assert guess_variant(build("deit_micro_distilled").backbone.state_dict()) == (
            "deit_micro_distilled"
        )
        assert guess_variant({}) is None
        assert guess_variant({"patch_embed.proj.weight": torch.zeros(7, 3, 16, 16)}) is None


def test_half_precision_weights_are_converted_and_said_so() -> None:
    given = start_from(build())
    half = {key: value.half() for key, value in given.state_dict.items()}
    network = build("deit_micro_distilled", resolution=40, seed=1)
    report = load_pretrained(network, PretrainedWeights(half, "half"))
    weight = network.backbone.get_parameter("norm.weight")
    assert weight.dtype == torch.float32
    assert details(report)["norm.weight"] == "converted from float16"
    assert "converted from float16" in details(report)["pos_embed"]


def test_patches_of_another_size_are_resampled() -> None:
    torch.manual_seed(0)
    options = {"num_classes": 5, "img_size": 32, "embed_dim": 96, "depth": 4, "num_heads": 3}
    given = timm.create_model("deit_tiny_patch16_224", patch_size=8, **options)
    network = build(seed=1)
    report = load_pretrained(network, PretrainedWeights(dict(given.state_dict()), "patches of 8"))
    assert actions(report)["patch_embed.proj.weight"] == "interpolated"
    assert details(report)["patch_embed.proj.weight"] == "patches of 8x8 resampled to 4x4"
    assert "4x4 to 8x8" in details(report)["pos_embed"]
    assert report.coverage == 100


def test_the_report_reads_well_and_is_json() -> None:
    report = load_pretrained(
        build("deit_micro_distilled", resolution=40, seed=1), start_from(build(classes=1000))
    )
    text = "\n".join(report.summary)
    assert text.startswith("start: a deit_micro\ncopied: ")
    assert "patch grid 8x8 to 10x10, bicubic" in text
    assert "dist_token: not in the weights" in text
    content = json.loads(json.dumps(report.to_dict()))
    assert content["coverage"] == report.coverage
    assert {item["key"] for item in content["items"]} == {item.key for item in report.items}


class TestScoring:
    """A network that is scored must have every tensor; see `complete`."""

    def load(self, network: Classifier, state_dict: dict[str, torch.Tensor]) -> LoadReport:
        start = PretrainedWeights(state_dict, "the file w.pth")
        return load_pretrained(network, start, keep_head=True, complete=True)

    @pytest.mark.parametrize(
        ("name", "lost"),
        [
            ("deit_micro", "norm."),
            ("deit_micro", "blocks.3.norm1."),
            ("deit_micro", "cls_token"),
            ("deit_micro_distilled", "head_dist."),
        ],
    )
    def test_what_is_missing_is_listed_and_nothing_is_loaded(self, name: str, lost: str) -> None:
        given = dict(start_from(build(name)).state_dict)
        missing = [key for key in given if key.startswith(lost)]
        network = build(name, seed=1)
        before = network.backbone.norm.weight.clone()
        with pytest.raises(CheckpointError, match="random parts is not scored") as caught:
            self.load(network, {k: v for k, v in given.items() if k not in missing})
        for key in missing:
            assert f"\n  - {key}: not in the weights" in caught.value.message
        assert torch.equal(network.backbone.norm.weight, before)

    def test_plain_weights_are_not_scored_as_a_distilled_network(self) -> None:
        given = dict(start_from(build()).state_dict)
        with pytest.raises(CheckpointError) as caught:
            self.load(build("deit_micro_distilled"), given)
        for key in ("dist_token", "head_dist.weight", "pos_embed"):
            assert f"- {key}: " in caught.value.message
        assert "deit_micro=WEIGHTS" in caught.value.hint

    def test_patches_of_another_shape_are_refused(self) -> None:
        given = dict(start_from(build()).state_dict)
        given["patch_embed.proj.weight"] = given["patch_embed.proj.weight"].sum(1, keepdim=True)
        with pytest.raises(CheckpointError, match=r"patch_embed.proj.weight: \(96, 1, 4, 4\)"):
            self.load(build(), given)

    def test_layer_scale_without_a_place_is_refused(self) -> None:
        given = dict(start_from(build()).state_dict)
        given["blocks.0.ls1.gamma"] = torch.full((96,), 0.1)
        with pytest.raises(CheckpointError, match=r"blocks.0.ls1.gamma: in the weights, not in"):
            self.load(build(), given)

    def test_what_is_dropped_is_a_note(self) -> None:
        given = dict(start_from(build("deit_micro_distilled")).state_dict)
        report = self.load(build(), given)
        assert report.scoring_notes == [
            line for line in report.summary if line.startswith("dropped:")
        ]
        assert "head_dist.weight" in report.scoring_notes[0]
        whole = self.load(build(), dict(start_from(build()).state_dict))
        assert whole.scoring_notes == []

    def test_the_file_says_which_weights_were_taken(self) -> None:
        start = start_from(build())
        noted = PretrainedWeights(start.state_dict, "w.pth", notes=("taken: model; not the EMA",))
        report = load_pretrained(build(), noted, keep_head=True, complete=True)
        assert report.scoring_notes == ["taken: model; not the EMA"]
        assert report.summary[-1] == "taken: model; not the EMA"


class TestPositionsOfOtherNetworks:
    @pytest.mark.parametrize(
        ("name", "resolution", "key"),
        [
            ("eva02_tiny_patch14_224", 140, "pos_embed"),
            ("swin_tiny_patch4_window7_224", 192, "relative_position_bias_table"),
        ],
    )
    def test_they_are_resized_as_timm_does(self, name: str, resolution: int, key: str) -> None:
        start = start_from(build(name))
        for value in start.state_dict.values():
            if value.is_floating_point():
                torch.nn.init.normal_(value)
        network = build(name, resolution=resolution, seed=1)
        fit = sys.modules[type(network.backbone).__module__].checkpoint_filter_fn
        with warnings.catch_warnings(action="ignore"):  # of torch, in timm's resizing
            theirs = fit(dict(start.state_dict), network.backbone)
        report = load_pretrained(network, start, keep_head=True, complete=True)
        assert "initialized" not in actions(report).values()
        resized = [one for one in theirs if theirs[one].shape != start.state_dict[one].shape]
        assert resized
        for one in resized:
            assert one.endswith(key)
            assert torch.equal(network.backbone.state_dict()[one], theirs[one])
            assert actions(report)[one] == "interpolated"
            assert "by timm" in details(report)[one]

    def test_where_nobody_can_resize_them_they_are_refused(self) -> None:
        start = start_from(build("cait_xxs24_224"))
        with pytest.raises(CheckpointError, match=r"pos_embed: .* in the weights") as caught:
            load_pretrained(build("cait_xxs24_224", resolution=160), start)
        assert "resolution" in caught.value.hint


class TestFittingModel:
    def test_the_positions_decide_between_resolutions(self) -> None:
        sizes = {"deit_base_patch16_224": 197, "deit_base_distilled_patch16_384": 578}
        for name, positions in sizes.items():
            state_dict = {
                "patch_embed.proj.weight": torch.empty(768, 3, 16, 16),
                "pos_embed": torch.empty(1, positions, 768),
                **{f"blocks.{place}.x": torch.empty(0) for place in range(12)},
            }
            if "distilled" in name:
                state_dict["dist_token"] = torch.empty(0)
            assert guess_variant(state_dict) == name

    def test_the_folder_s_word_comes_first(self) -> None:
        given = start_from(build())
        assert fitting_model(given) == "deit_micro"
        named = PretrainedWeights(given.state_dict, "a folder", model_name="resnet18")
        assert fitting_model(named) == "resnet18"
        with pytest.raises(CheckpointError, match="shapes are of no DeiT") as caught:
            fitting_model(PretrainedWeights({"a": torch.ones(1)}, "the file w.pth"))
        assert "--model MODEL" in caught.value.hint


def test_the_program_is_named_whose_layout_is_not_read() -> None:
    foreign = {"backbone.layers.0.ln1.weight": torch.ones(4), "x": torch.ones(4)}
    with pytest.raises(CheckpointError, match="its names are mmpretrain's"):
        load_pretrained(build(), PretrainedWeights(foreign, "w.pth"))
