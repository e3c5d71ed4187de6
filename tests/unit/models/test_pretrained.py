"""What a network can start from, and every start that must be refused without running it."""

import argparse
import builtins
import hashlib
import json
import os
import pickle
import resource
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

from deit_transfer.errors import CheckpointError, ResourceError
from deit_transfer.models.classifier import Classifier, build_classifier
from deit_transfer.models.pretrained import (
    MODEL_FILE,
    WEIGHTS_FILE,
    read_model,
    read_pretrained,
    write_model_files,
)

CPU = torch.device("cpu")
NAMES = ("cat", "dog", "owl")


def build(name: str = "deit_micro") -> Classifier:
    torch.manual_seed(0)
    return build_classifier(name=name, num_classes=3)


def weights() -> dict[str, torch.Tensor]:
    return dict(build().backbone.state_dict())


def read(start: object) -> dict[str, torch.Tensor]:
    return dict(read_pretrained(str(start), model_name="deit_micro").state_dict)


def assert_same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], expected[key]) for key in expected)


class TouchesAFile:
    """A pickle that runs a call when it is loaded."""

    def __init__(self, call: Callable[..., Any], *arguments: str) -> None:
        self.call, self.arguments = call, arguments

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str, ...]]:
        return self.call, self.arguments


class TestFiles:
    def test_none_is_an_empty_start(self) -> None:
        start = read_pretrained("none", model_name="deit_micro")
        assert start.is_none
        assert "random" in start.origin

    def test_safetensors(self, tmp_path: Path) -> None:
        save_file(weights(), tmp_path / "w.safetensors")
        assert_same(read(tmp_path / "w.safetensors"), weights())

    @pytest.mark.parametrize("zipped", [True, False])
    def test_the_original_checkpoint_layout(self, tmp_path: Path, zipped: bool) -> None:
        arguments = argparse.Namespace(lr=5e-4, output_dir=Path("runs/x"), model="deit")
        checkpoint = {
            "model": weights(),
            "model_ema": {"other": torch.zeros(1)},
            "optimizer": {"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": [{"lr": 1.0}]},
            "epoch": 299,
            "args": arguments,
        }
        path = tmp_path / "checkpoint.pth"
        torch.save(checkpoint, path, _use_new_zipfile_serialization=zipped)

        assert_same(read(path), weights())
        with pytest.raises(pickle.UnpicklingError):  # the allow-list is gone again
            torch.load(path, weights_only=True)

    @pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "backbone.", "_orig_mod.module."])
    def test_prefixes_of_wrapped_networks_are_removed(self, tmp_path: Path, prefix: str) -> None:
        torch.save({prefix + key: value for key, value in weights().items()}, tmp_path / "w.pt")
        assert_same(read(tmp_path / "w.pt"), weights())

    def test_the_format_is_told_by_the_content(self, tmp_path: Path) -> None:
        save_file(weights(), tmp_path / "misnamed.pth")
        torch.save(weights(), tmp_path / "misnamed.safetensors")
        assert_same(read(tmp_path / "misnamed.pth"), weights())
        assert_same(read(tmp_path / "misnamed.safetensors"), weights())

    @pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.9, 0.9999])
    @pytest.mark.parametrize("kind", ["safetensors", "zip", "legacy"])
    def test_a_truncated_file_is_refused(self, tmp_path: Path, kind: str, share: float) -> None:
        path = tmp_path / "w"
        if kind == "safetensors":
            save_file(weights(), path)
        else:
            torch.save(weights(), path, _use_new_zipfile_serialization=kind == "zip")
        content = path.read_bytes()
        path.write_bytes(content[: int(share * len(content))])

        with pytest.raises(CheckpointError) as caught:
            read(path)
        assert str(path) in caught.value.message
        assert caught.value.hint

    @pytest.mark.parametrize(
        ("content", "what"),
        [
            (b"", "empty"),
            (b"<!DOCTYPE html><title>404</title>", "web page"),
            (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
            (b"hello, this is a text", "starts with b'hello, t'"),
        ],
    )
    def test_other_files_are_named_for_what_they_are(
        self, tmp_path: Path, content: bytes, what: str
    ) -> None:
        (tmp_path / "w.pth").write_bytes(content)
        with pytest.raises(CheckpointError, match="not a weights file") as caught:
            read(tmp_path / "w.pth")
        assert what in caught.value.message

    def test_a_missing_file_is_refused_with_its_neighbors(self, tmp_path: Path) -> None:
        save_file(weights(), tmp_path / "right.safetensors")
        with pytest.raises(CheckpointError, match="there is nothing at") as caught:
            read(tmp_path / "wrong.safetensors")
        assert "right.safetensors" in caught.value.hint
        with pytest.raises(CheckpointError) as caught:
            read(tmp_path / "no" / "where.pth")
        assert "does not exist either" in caught.value.hint

    def test_a_mistyped_word_is_refused_with_a_suggestion(self) -> None:
        with pytest.raises(CheckpointError, match="'imagnet'") as caught:
            read("imagnet")
        assert "imagenet" in caught.value.hint

    @pytest.mark.parametrize(
        "payload",
        [{"epoch": 3}, {"model": {"a": torch.ones(1), "b": "text"}}, [torch.ones(1)], {}],
    )
    def test_a_file_without_a_state_dict_is_refused(self, tmp_path: Path, payload: object) -> None:
        torch.save(payload, tmp_path / "w.pth")
        with pytest.raises(CheckpointError, match="not a state dict"):
            read(tmp_path / "w.pth")

    def test_weights_that_are_not_finite_are_refused(self, tmp_path: Path) -> None:
        state_dict = weights()
        state_dict["norm.weight"][3] = float("nan")
        save_file(state_dict, tmp_path / "w.safetensors")
        with pytest.raises(CheckpointError, match=r"not finite, in norm\.weight"):
            read(tmp_path / "w.safetensors")


class TestMaliciousPickles:
    @pytest.mark.parametrize("writer", ["zip", "legacy", "pickle", "pickle-2"])
    @pytest.mark.parametrize("call", ["system", "eval", "exec", "mkdir", "namespace"])
    def test_a_pickle_that_runs_code_is_refused_and_not_run(
        self, tmp_path: Path, call: str, writer: str
    ) -> None:
        touched = tmp_path / "touched"
        payload = {
            "system": TouchesAFile(os.system, f"touch {touched}"),
            "eval": TouchesAFile(builtins.eval, f"__import__('os').mkdir({str(touched)!r})"),
            "exec": TouchesAFile(builtins.exec, f"import os; os.mkdir({str(touched)!r})"),
            "mkdir": TouchesAFile(os.mkdir, str(touched)),
            "namespace": argparse.Namespace(x=TouchesAFile(os.system, f"touch {touched}")),
        }[call]
        checkpoint = {"model": weights(), "args": payload}
        path = tmp_path / "w.pth"
        if writer.startswith("pickle"):
            protocol = 2 if writer == "pickle-2" else 4
            path.write_bytes(pickle.dumps({"args": payload}, protocol=protocol))
        else:
            torch.save(checkpoint, path, _use_new_zipfile_serialization=writer == "zip")

        with pytest.raises(CheckpointError) as caught:
            read(path)

        assert not touched.exists()
        if writer in ("zip", "legacy"):
            assert "refused" in caught.value.message
        with path.open("rb") as file:  # the payload works: it would have run
            if writer.startswith("pickle"):
                pickle.load(file)
                assert touched.exists()

    @pytest.mark.parametrize(
        ("value", "name"), [(torch.nn.Linear(1, 1), "Linear"), (np.ones(1), "reconstruct")]
    )
    def test_what_the_pickle_asks_for_is_named(
        self, tmp_path: Path, value: object, name: str
    ) -> None:
        torch.save({"model": weights(), "extra": value}, tmp_path / "w.pth")
        with pytest.raises(CheckpointError, match=name) as caught:
            read(tmp_path / "w.pth")
        assert "safetensors" in caught.value.hint

    def test_the_environment_cannot_switch_the_refusal_off(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
        touched = tmp_path / "touched"
        torch.save({"x": TouchesAFile(os.system, f"touch {touched}")}, tmp_path / "w.pth")
        with pytest.raises(CheckpointError):
            read(tmp_path / "w.pth")
        assert not touched.exists()


class TestRunFolders:
    def test_a_written_run_is_read_back_bit_for_bit(self, tmp_path: Path) -> None:
        classifier = build_classifier(
            name="deit_micro_distilled", num_classes=3, resolution=24, two_class_tokens=True
        )
        classifier.mean, classifier.std = (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)
        write_model_files(tmp_path, classifier, class_names=NAMES, crop_pct=0.9)

        again, class_names = read_model(tmp_path, device=CPU)

        assert class_names == NAMES
        assert not again.training
        assert (again.name, again.resolution) == ("deit_micro_distilled", 24)
        assert (again.mean, again.std) == (classifier.mean, classifier.std)
        assert again.two_class_tokens
        images = torch.randn(2, 3, 24, 24)
        for expected, logits in zip(classifier.eval()(images), again(images), strict=True):
            assert torch.equal(expected, logits)
        assert sorted(path.name for path in tmp_path.iterdir()) == [
            "config.json",
            MODEL_FILE,
            WEIGHTS_FILE,
        ]

    def test_a_run_is_a_start_with_its_names_and_colors(self, tmp_path: Path) -> None:
        classifier = build()
        write_model_files(tmp_path, classifier, class_names=NAMES, crop_pct=0.9)
        start = read_pretrained(str(tmp_path), model_name="deit_micro_distilled")
        assert_same(dict(start.state_dict), classifier.backbone.state_dict())
        assert start.class_names == NAMES
        assert (start.model_name, start.mean) == ("deit_micro", classifier.mean)
        assert str(tmp_path) in start.origin

    def test_an_average_can_be_written_in_the_weights_place(self, tmp_path: Path) -> None:
        classifier = build()
        average = {key: value * 0.5 for key, value in classifier.backbone.state_dict().items()}
        write_model_files(tmp_path, classifier, class_names=NAMES, state_dict=average, crop_pct=0.9)
        assert_same(load_file(tmp_path / WEIGHTS_FILE), average)

    def test_any_timm_network_is_read_back(self, tmp_path: Path) -> None:
        classifier = build_classifier(name="resnet10t", num_classes=3, resolution=64).eval()
        write_model_files(tmp_path, classifier, class_names=NAMES, crop_pct=0.9)
        again, _ = read_model(tmp_path, device=CPU)
        images = torch.randn(1, 3, 64, 64)
        assert torch.equal(classifier(images).class_logits, again(images).class_logits)

    @pytest.mark.parametrize("missing", [MODEL_FILE, WEIGHTS_FILE])
    def test_an_unfinished_run_is_refused(self, tmp_path: Path, missing: str) -> None:
        (tmp_path / "recipe.toml").write_text("")  # with which a run begins
        write_model_files(tmp_path, build(), class_names=NAMES, crop_pct=0.9)
        (tmp_path / missing).unlink()
        for use in (lambda: read(tmp_path), lambda: read_model(tmp_path, device=CPU)):
            with pytest.raises(CheckpointError, match=missing) as caught:
                use()
            assert "run has not finished" in caught.value.hint

    def test_weights_under_the_name_of_earlier_versions_are_read(self, tmp_path: Path) -> None:
        write_model_files(tmp_path, build(), class_names=NAMES, crop_pct=0.9)
        (tmp_path / WEIGHTS_FILE).rename(tmp_path / "weights.safetensors")
        assert read_model(tmp_path, device=CPU)[1] == NAMES

    def test_a_flipped_bit_is_noticed(self, tmp_path: Path) -> None:
        write_model_files(tmp_path, build(), class_names=NAMES, crop_pct=0.9)
        content = bytearray((tmp_path / WEIGHTS_FILE).read_bytes())
        content[-100] ^= 1
        (tmp_path / WEIGHTS_FILE).write_bytes(content)
        with pytest.raises(CheckpointError, match="SHA-256"):
            read_model(tmp_path, device=CPU)

    @pytest.mark.parametrize(
        ("change", "fault"),
        [
            ({"num_classes": "many"}, "num_classes"),
            ({"color": "red"}, "color"),
            ({"class_names": ["cat"]}, "names 1 classes for a network of 3"),
            ({"num_classes": 2, "class_names": ["cat", "dog"]}, "does not fit"),
            ({"model": "deit_huge"}, "unknown model"),
            ({"model": "deit_micro_distilled"}, "does not fit"),
        ],
    )
    def test_a_contradictory_model_file_is_refused(
        self, tmp_path: Path, change: dict[str, object], fault: str
    ) -> None:
        write_model_files(tmp_path, build(), class_names=NAMES, crop_pct=0.9)
        content = json.loads((tmp_path / MODEL_FILE).read_text()) | change
        (tmp_path / MODEL_FILE).write_text(json.dumps(content))
        with pytest.raises(CheckpointError, match=fault):
            read_model(tmp_path, device=CPU)

    @pytest.mark.parametrize("content", ["{", "[1]", "\x00"])
    def test_a_model_file_that_is_not_json_is_refused(self, tmp_path: Path, content: str) -> None:
        write_model_files(tmp_path, build(), class_names=NAMES, crop_pct=0.9)
        (tmp_path / MODEL_FILE).write_text(content)
        with pytest.raises(CheckpointError, match=MODEL_FILE):
            read_pretrained(str(tmp_path), model_name="deit_micro")

    def test_the_number_of_class_names_is_checked_when_writing(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="2 class names for 3 classes"):
            write_model_files(tmp_path, build(), class_names=("cat", "dog"), crop_pct=0.9)

    def test_a_full_disk_leaves_the_old_files_whole(self, tmp_path: Path) -> None:
        write_model_files(tmp_path, build(), class_names=NAMES, crop_pct=0.9)
        before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
        changed = build()
        changed.backbone.norm.weight.data.mul_(2)

        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, limits[1]))
        try:
            with pytest.raises(ResourceError, match=r"model\.safetensors .* cannot be written"):
                write_model_files(tmp_path, changed, class_names=NAMES, crop_pct=0.9)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
            signal.signal(signal.SIGXFSZ, handler)

        assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before

    def test_a_link_planted_in_the_folder_is_not_followed(self, tmp_path: Path) -> None:
        run = tmp_path / "run"
        run.mkdir()
        (tmp_path / "precious").write_text("keep")
        (run / f".{WEIGHTS_FILE}.tmp").symlink_to(tmp_path / "precious")
        write_model_files(run, build(), class_names=NAMES, crop_pct=0.9)
        assert (tmp_path / "precious").read_text() == "keep"


class TestTimmFolders:
    def test_a_folder_that_timm_exported(self, tmp_path: Path) -> None:
        network = timm.create_model("resnet10t", num_classes=3)
        config = {"label_names": list(NAMES)}
        timm.models.save_for_hf(network, tmp_path, model_config=config, safe_serialization=True)
        for name in (str(tmp_path), f"local-dir:{tmp_path}"):
            start = read_pretrained(name, model_name="resnet10t")
            assert_same(dict(start.state_dict), network.state_dict())
            assert start.class_names == NAMES
            assert start.model_name == "resnet10t"
            assert start.mean == tuple(network.pretrained_cfg["mean"])

    def test_a_folder_with_weights_alone(self, tmp_path: Path) -> None:
        save_file(weights(), tmp_path / "model.safetensors")
        assert_same(read(tmp_path), weights())

    def test_a_folder_that_is_no_start(self, tmp_path: Path) -> None:
        with pytest.raises(CheckpointError, match=r"no model\.safetensors and no model\.json"):
            read(tmp_path)


def test_the_hash_is_that_of_the_weights_on_disk(tmp_path: Path) -> None:
    write_model_files(tmp_path, build(), class_names=NAMES, crop_pct=0.9)
    recorded = json.loads((tmp_path / MODEL_FILE).read_text())["weights_sha256"]
    assert recorded == hashlib.sha256((tmp_path / WEIGHTS_FILE).read_bytes()).hexdigest()
