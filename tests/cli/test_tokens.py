"""Tokens on the command line: cosines against a walk through the blocks written here."""

from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from PIL import Image
from program import Ended, run_program
from safetensors.torch import load_file

SIZE = {"patch_size": 4, "embed_dim": 96, "depth": 4, "num_heads": 3}


@pytest.fixture(scope="module")
def looked(workplace: Path, distilled: Ended) -> Ended:
    command = ("tokens", "runs/pupil", "--images=9", "--out=looks", "--json")
    ended = run_program(*command, folder=workplace)
    assert ended.code == 0, ended.err
    return ended


def network(run: Path) -> torch.nn.Module:
    backbone = timm.create_model(
        "deit_tiny_distilled_patch16_224", num_classes=3, img_size=16, **SIZE
    )
    backbone.load_state_dict(load_file(run / "model.safetensors"))
    return backbone.eval()


@torch.no_grad()
def cosines_by_hand(backbone: torch.nn.Module, pixels: np.ndarray) -> torch.Tensor:
    """Return the cosine of both tokens at the input and after each block, (L + 1, N)."""
    mean, std = (
        torch.tensor(v)[:, None, None] for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    )
    images = (torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255 - mean) / std
    tokens = torch.cat([backbone.cls_token, backbone.dist_token], 1).expand(len(images), -1, -1)
    values = torch.cat([tokens, backbone.patch_embed(images)], 1) + backbone.pos_embed
    layers = [values]
    for block in backbone.blocks:
        layers.append(block(layers[-1]))
    return torch.stack([F.cosine_similarity(v[:, 0], v[:, 1], dim=-1) for v in layers])


def test_cosines_are_those_of_a_direct_computation(workplace: Path, looked: Ended) -> None:
    facts = looked.json
    backbone = network(workplace / "runs" / "pupil")
    learned = F.cosine_similarity(backbone.cls_token[0, 0], backbone.dist_token[0, 0], dim=0)
    assert facts["token_cosine"] == pytest.approx(learned.item(), abs=1e-6)
    own = backbone.pos_embed[0, :2]
    with_positions = F.cosine_similarity(
        backbone.cls_token[0, 0] + own[0], backbone.dist_token[0, 0] + own[1], dim=0
    )
    assert facts["token_cosine_with_positions"] == pytest.approx(with_positions.item(), abs=1e-6)
    assert facts["num_images"] == 9
    assert len(facts["layers"]) == 5
    assert facts["layers"][0]["mean"] == pytest.approx(with_positions.item(), abs=1e-5)
    assert facts["layers"][0]["std"] < 1e-9


def test_each_layer_is_averaged_over_the_images_given(workplace: Path, looked: Ended) -> None:
    # 16 x 16 pixels stay as they are only without a crop
    files = sorted((workplace / "photos" / "test").glob("*/*.png"))[:5]
    command = ("tokens", "runs/pupil", *(f.relative_to(workplace) for f in files))
    ended = run_program(*command, "--out=given", "--json", folder=workplace)
    assert ended.code == 0, ended.err
    facts = ended.json
    assert facts["images_drawn"] == [str(file.relative_to(workplace)) for file in files]
    from deit_transfer.data.pipeline.transforms import eval_transform

    view = eval_transform(resolution=16, crop_pct=0.9)
    pixels = np.stack([view(np.asarray(Image.open(file))) for file in files])
    expected = cosines_by_hand(network(workplace / "runs" / "pupil"), pixels)
    assert [layer["mean"] for layer in facts["layers"]] == pytest.approx(
        expected.mean(dim=1).tolist(), abs=1e-5
    )
    assert [layer["std"] for layer in facts["layers"]] == pytest.approx(
        expected.std(dim=1).tolist(), abs=1e-5
    )
    assert facts["layers"][2]["std"] > 0


def test_all_three_figures_are_drawn(workplace: Path, looked: Ended) -> None:
    figures = looked.json["figures"]
    assert set(figures) == {"cosines", "positions", "attention"}
    for path in figures.values():
        assert path.startswith("looks/pupil/")
        assert (workplace / path).read_bytes().startswith(b"\x89PNG")
    assert looked.json["positions"]["grid"] == [4, 4]
    for kind in ("last", "rollout"):
        shares = looked.json["attention"][kind]["patch_share"]
        assert set(shares) == {"class", "distill"}
        assert all(0 < share < 1 for share in shares.values())


def test_a_plain_network_is_said_to_have_one_token(workplace: Path, finished: Ended) -> None:
    command = ("tokens", "runs/first", "--images=3", "--out=plain")
    ended = run_program(*command, folder=workplace)
    assert ended.code == 0, ended.err
    shown = " ".join(ended.out.split())
    assert "one token, the class token: there is no second token to compare it with" in shown
    assert ended.out.isascii()
    assert max(map(len, ended.out.splitlines())) <= 80
    drawn = {path.name for path in (workplace / "plain" / "first").iterdir()}
    assert drawn == {"positions.png", "attention.png"}


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("runs/first", "nowhere.jpg"), 3, "there is no image file nowhere.jpg"),
        (("runs/first", "photos"), 3, "--dataset takes datasets"),
        (("nowhere/run",), 3, "nowhere/run"),
    ],
)
def test_what_cannot_be_looked_at(
    workplace: Path, finished: Ended, arguments: tuple[str, ...], code: int, said: str
) -> None:
    ended = run_program("tokens", *arguments, folder=workplace)
    assert ended.code == code, ended.err
    assert said in ended.said
