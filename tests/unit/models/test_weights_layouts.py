"""Weights as other programs write them: read under timm's names, or refused by name."""

import pickle
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from deit_transfer.errors import CheckpointError
from deit_transfer.models.classifier import build_classifier
from deit_transfer.models.pretrained import read_pretrained
from deit_transfer.models.weights_file import read_weights_file


def weights(name: str = "deit_micro") -> dict[str, Tensor]:
    torch.manual_seed(0)
    return dict(build_classifier(name=name, num_classes=3).backbone.state_dict())


def as_transformers(state_dict: dict[str, Tensor], model: str) -> dict[str, Tensor]:
    """Write a DeiT's tensors under the names of Hugging Face transformers 5.24, by hand."""
    width = state_dict["cls_token"].shape[-1]
    distilled = "head_dist.weight" in state_dict
    names = {
        "cls_token": f"{model}.embeddings.cls_token",
        "dist_token": f"{model}.embeddings.distillation_token",
        "pos_embed": f"{model}.embeddings.position_embeddings",
        "patch_embed.proj": f"{model}.embeddings.patch_embeddings.projection",
        "norm": f"{model}.layernorm",
        "head": "cls_classifier" if distilled else "classifier",
        "head_dist": "distillation_classifier",
    }
    parts = {
        "attn.proj": "attention.output.dense",
        "norm1": "layernorm_before",
        "norm2": "layernorm_after",
        "mlp.fc1": "intermediate.dense",
        "mlp.fc2": "output.dense",
    }
    theirs: dict[str, Tensor] = {}
    for key, value in state_dict.items():
        stem, _, kind = key.rpartition(".")
        if key in names:
            theirs[names[key]] = value
        elif stem in names:
            theirs[f"{names[stem]}.{kind}"] = value
        else:
            _, block, part = stem.split(".", 2)
            place = f"{model}.encoder.layer.{block}"
            if part == "attn.qkv":
                for row, name in enumerate(("query", "key", "value")):
                    piece = value[row * width : (row + 1) * width].clone()
                    theirs[f"{place}.attention.attention.{name}.{kind}"] = piece
            else:
                theirs[f"{place}.{parts[part]}.{kind}"] = value
    return theirs


def read(path: Path) -> dict[str, Tensor]:
    return read_weights_file(path).state_dict


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], expected[key]) for key in expected)


@pytest.mark.parametrize("wrapper", ["", "model."])
@pytest.mark.parametrize(
    ("name", "model"), [("deit_micro", "vit"), ("deit_micro_distilled", "deit")]
)
def test_transformers_names_are_translated(
    tmp_path: Path, name: str, model: str, wrapper: str
) -> None:
    theirs = {wrapper + k: v for k, v in as_transformers(weights(name), model).items()}
    save_file(theirs, tmp_path / "model.safetensors")
    assert_same(read(tmp_path / "model.safetensors"), weights(name))


def test_what_transformers_has_besides_keeps_its_name(tmp_path: Path) -> None:
    theirs = as_transformers(weights(), "vit")
    theirs["vit.pooler.dense.weight"] = torch.ones(2, 2)
    del theirs["vit.encoder.layer.1.attention.attention.key.weight"]
    save_file(theirs, tmp_path / "model.safetensors")
    found = read(tmp_path / "model.safetensors")
    assert "vit.pooler.dense.weight" in found
    assert "blocks.1.attn.qkv.weight" not in found
    assert "blocks.0.attn.qkv.weight" in found


@pytest.mark.parametrize(
    "prefix", ["model.", "net.", "encoder.", "model.backbone.", "module._orig_mod.", "timm_model."]
)
def test_any_common_prefix_is_stripped(tmp_path: Path, prefix: str) -> None:
    torch.save({prefix + k: v for k, v in weights().items()}, tmp_path / "w.ckpt")
    assert_same(read(tmp_path / "w.ckpt"), weights())


def test_a_lightning_checkpoint_with_a_head_and_metrics_beside_the_backbone(
    tmp_path: Path,
) -> None:
    theirs: dict[str, Tensor] = {
        f"model.{k}" if k.startswith("head.") else f"model.backbone.{k}": v
        for k, v in weights().items()
    }
    theirs["train_accuracy.total"] = torch.tensor(7)
    torch.save({"state_dict": theirs, "epoch": 3, "hparams": {"lr": 1.0}}, tmp_path / "w.ckpt")
    found = read(tmp_path / "w.ckpt")
    assert_same(found, {**weights(), "train_accuracy.total": torch.tensor(7)})


def test_a_convnet_in_a_wrapper_with_torchs_counter(tmp_path: Path) -> None:
    plain = dict(build_classifier(name="resnet10t", num_classes=3).backbone.state_dict())
    averaged = {"n_averaged": torch.tensor(4), **{f"module.{k}": v for k, v in plain.items()}}
    torch.save(averaged, tmp_path / "w.pth")
    assert_same(read(tmp_path / "w.pth"), {**plain, "n_averaged": torch.tensor(4)})


def test_one_module_alone_is_left_as_it_is(tmp_path: Path) -> None:
    head = {"head.weight": torch.ones(2, 3), "head.bias": torch.ones(2)}
    save_file(head, tmp_path / "w.safetensors")
    assert_same(read(tmp_path / "w.safetensors"), head)


def test_names_below_blocks_alone_are_left_as_they_are(tmp_path: Path) -> None:
    some = {k: v for k, v in weights().items() if k.startswith("blocks.")}
    save_file(some, tmp_path / "w.safetensors")
    assert_same(read(tmp_path / "w.safetensors"), some)


@pytest.mark.parametrize(
    ("payload", "taken", "note"),
    [
        (("model", "model_ema"), "model", "taken: model; the average of the weights, model_ema"),
        (("state_dict", "state_dict_ema"), "state_dict", "state_dict_ema, is not used"),
        (("state_dict_ema",), "state_dict_ema", "taken: state_dict_ema, an average"),
        (("model",), "model", None),
    ],
)
def test_it_is_said_which_of_several_weights_were_taken(
    tmp_path: Path, payload: tuple[str, ...], taken: str, note: str | None
) -> None:
    held = {
        key: {k: v * (place + 1) for k, v in weights().items()} for place, key in enumerate(payload)
    }
    torch.save(held, tmp_path / "w.pth")
    start = read_pretrained(str(tmp_path / "w.pth"), model_name="deit_micro")
    assert_same(dict(start.state_dict), held[taken])
    assert (note is None and not start.notes) or note in start.notes[0]


def test_dinos_two_networks_are_refused_by_name(tmp_path: Path) -> None:
    torch.save({"student": weights(), "teacher": weights(), "epoch": 1}, tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match="DINO") as caught:
        read(tmp_path / "w.pth")
    assert "['teacher']" in caught.value.hint


def test_two_networks_under_two_prefixes_are_refused(tmp_path: Path) -> None:
    both = {f"{side}.{k}": v for side in ("student", "teacher") for k, v in weights().items()}
    torch.save(both, tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match=r"2 networks: student\.\*, teacher\.\*") as caught:
        read(tmp_path / "w.pth")
    assert "removeprefix('student.')" in caught.value.hint


def test_a_torchscript_archive_is_not_called_damaged(tmp_path: Path) -> None:
    with warnings.catch_warnings(action="ignore"):  # TorchScript is deprecated
        torch.jit.script(nn.Linear(2, 2)).save(str(tmp_path / "w.pt"))
    with pytest.raises(CheckpointError, match="TorchScript archive") as caught:
        read(tmp_path / "w.pt")
    assert "torch.jit.load('w.pt').state_dict()" in caught.value.hint


@pytest.mark.parametrize("metadata", [None, {"format": "pt"}])
def test_a_file_without_tensors_is_refused(tmp_path: Path, metadata: dict[str, str] | None) -> None:
    save_file({}, tmp_path / "model.safetensors", metadata=metadata)
    for start in (tmp_path / "model.safetensors", tmp_path, f"local-dir:{tmp_path}"):
        with pytest.raises(CheckpointError, match="no tensor"):
            read_pretrained(str(start), model_name="deit_micro")


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("value", [np.float64(81.5), np.float32(2), np.int64(3), np.bool_(True)])
def test_a_numpy_scalar_beside_the_weights_is_read(
    tmp_path: Path, value: np.generic, zipped: bool
) -> None:
    payload = {"model": weights(), "best": value}
    torch.save(payload, tmp_path / "w.pth", _use_new_zipfile_serialization=zipped)
    assert_same(read(tmp_path / "w.pth"), weights())


class HostileType:
    """A pickle of numpy's number type with a state of the writer's choice."""

    def __reduce__(self) -> tuple[object, ...]:
        return np.dtype, ("O8", False, True), (3, "|", ("x",), ("x",), {}, 2**62, 1, 63)


def test_a_number_types_state_never_reaches_numpy(tmp_path: Path) -> None:
    torch.save({"model": weights(), "best": HostileType()}, tmp_path / "w.pth")
    assert_same(read(tmp_path / "w.pth"), weights())
    with pytest.raises(pickle.UnpicklingError):  # torch itself allows none of it
        torch.load(tmp_path / "w.pth", weights_only=True)
