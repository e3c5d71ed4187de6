"""What `evaluate`, `predict` and their like take for a model: runs, names, files and folders."""

import json
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from safetensors.torch import save_file

from deit_transfer.data.pipeline.transforms import BorderTransform, CenterTransform, SquashTransform
from deit_transfer.errors import CheckpointError, DataError, UsageError
from deit_transfer.evaluation.load_model import open_model
from deit_transfer.evaluation.predictor import open_predictor, predictor_at
from deit_transfer.models.classifier import Classifier, build_classifier
from deit_transfer.models.pretrained import read_pretrained

CPU = torch.device("cpu")
NAMES = ("cat", "dog", "owl")


def network(name: str = "deit_micro", *, classes: int = 3) -> Classifier:
    torch.manual_seed(0)
    return build_classifier(name=name, num_classes=classes).eval()


def write_file(path: Path, classifier: Classifier) -> Path:
    save_file(dict(classifier.backbone.state_dict()), path)
    return path


def write_folder(folder: Path, classifier: Classifier, **config: Any) -> Path:
    """Write a folder in timm's layout, as `timm.models.save_for_hf` does."""
    folder.mkdir()
    write_file(folder / "model.safetensors", classifier)
    content = {"architecture": classifier.name, "num_classes": classifier.num_classes, **config}
    (folder / "config.json").write_text(json.dumps(content))
    return folder


def assert_same_logits(found: Classifier, expected: Classifier) -> None:
    images = torch.randn(2, 3, expected.resolution, expected.resolution)
    assert torch.equal(found(images).class_logits, expected(images).class_logits)


class TestFilesAlone:
    def test_the_network_is_the_one_that_the_file_fits(self, tmp_path: Path) -> None:
        own = network(classes=1000)
        opened = open_model(str(write_file(tmp_path / "w.safetensors", own)), device=CPU)
        assert (opened.name, opened.folder, opened.notes) == ("deit_micro", None, ())
        assert_same_logits(opened.classifier, own)

    def test_a_file_that_is_not_there_is_no_unknown_model(self, tmp_path: Path) -> None:
        with pytest.raises(CheckpointError, match="there is nothing at"):
            open_model(str(tmp_path / "w.safetensors"), device=CPU)

    def test_a_file_of_a_network_that_is_not_recognized(self, tmp_path: Path) -> None:
        file = write_file(tmp_path / "w.safetensors", network("resnet10t"))
        with pytest.raises(CheckpointError, match="does not say which network") as caught:
            open_model(str(file), device=CPU)
        assert "MODEL=WEIGHTS" in caught.value.hint
        opened = open_model(f"resnet10t={file}", device=CPU)
        assert_same_logits(opened.classifier, network("resnet10t"))

    def test_a_path_without_anything_is_still_no_run(self) -> None:
        with pytest.raises(DataError, match="there is no run"):
            open_predictor("runs/nothing")
        with pytest.raises(UsageError, match="unknown model"):
            open_model("deit_huge", device=CPU)

    def test_weights_without_a_part_are_refused(self, tmp_path: Path) -> None:
        file = write_file(tmp_path / "w.safetensors", network())
        with pytest.raises(CheckpointError, match="random parts") as caught:
            open_model(f"deit_micro_distilled={file}", device=CPU)
        assert "dist_token: not in the weights" in caught.value.message

    def test_what_was_dropped_is_a_note_of_the_predictor(self, tmp_path: Path) -> None:
        own = network("deit_micro_distilled", classes=1000)
        predictor = open_predictor(f"deit_micro={write_file(tmp_path / 'w.safetensors', own)}")
        assert any(note.startswith("dropped: ") for note in predictor.notes)


class TestFolders:
    @pytest.mark.parametrize("prefix", ["", "local-dir:", "deit_micro="])
    def test_a_folder_brings_its_own_classes(self, tmp_path: Path, prefix: str) -> None:
        own = network()
        view = {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6], "input_size": [3, 32, 32]}
        write_folder(tmp_path / "w", own, label_names=list(NAMES), pretrained_cfg=view)
        fused = {"run.attention": "fused"}  # as `own` has it
        predictor = open_predictor(f"{prefix}{tmp_path / 'w'}", overrides=fused)
        assert (predictor.class_names, predictor.is_run) == (NAMES, False)
        assert predictor.subject.classifier.mean == (0.1, 0.2, 0.3)
        assert_same_logits(predictor.subject.classifier, own)

    def test_the_configuration_gives_the_resolution(self, tmp_path: Path) -> None:
        own = build_classifier(name="deit_micro", num_classes=3, resolution=24)
        view = {"input_size": [3, 24, 24]}
        write_folder(tmp_path / "w", own, label_names=list(NAMES), pretrained_cfg=view)
        opened = open_model(str(tmp_path / "w"), device=CPU)
        assert (opened.classifier.resolution, opened.notes) == (24, ())

    def test_classes_without_names_are_refused(self, tmp_path: Path) -> None:
        folder = write_folder(tmp_path / "w", network())
        with pytest.raises(CheckpointError, match="do not say what their 3 classes are called"):
            open_predictor(str(folder))

    def test_more_names_than_classes_are_refused(self, tmp_path: Path) -> None:
        folder = write_folder(tmp_path / "w", network(), label_names=["cat", "dog"])
        with pytest.raises(CheckpointError, match="names 2 classes for a head of 3"):
            open_model(str(folder), device=CPU)

    @pytest.mark.parametrize("mean", [["a", 0, 0], [0.5], 3])
    def test_a_mean_that_is_none_is_refused(self, tmp_path: Path, mean: object) -> None:
        folder = write_folder(tmp_path / "w", network(), pretrained_cfg={"mean": mean})
        with pytest.raises(CheckpointError, match="three numbers"):
            open_model(str(folder), device=CPU)


class TestTransformersFolders:
    CONFIG: ClassVar[dict[str, Any]] = {
        "model_type": "vit",
        "image_size": 32,
        "id2label": {"0": "cat", "1": "dog", "2": "owl"},
    }
    SEEN: ClassVar[dict[str, Any]] = {
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
        "resample": 2,
        "size": {"height": 32, "width": 32},
    }

    def write(self, folder: Path, config: dict[str, Any], seen: dict[str, Any]) -> str:
        write_file(folder / "model.safetensors", network())
        (folder / "config.json").write_text(json.dumps(config))
        (folder / "preprocessor_config.json").write_text(json.dumps(seen))
        return str(folder)

    def test_its_classes_and_its_view_are_taken(self, tmp_path: Path) -> None:
        weights = read_pretrained(self.write(tmp_path, self.CONFIG, self.SEEN), model_name="")
        assert weights.class_names == NAMES
        assert weights.mean == (0.5, 0.5, 0.5)
        assert weights.config["interpolation"] == "bilinear"
        assert (weights.config["crop_mode"], weights.config["crop_pct"]) == ("squash", 1.0)
        assert weights.config["input_size"] == (3, 32, 32)

    def test_a_crop_out_of_the_shorter_edge(self, tmp_path: Path) -> None:
        seen = {"size": {"shortest_edge": 64}, "crop_size": 32, "do_center_crop": True}
        config = read_pretrained(self.write(tmp_path, self.CONFIG, seen), model_name="").config
        assert (config["crop_mode"], config["crop_pct"]) == ("center", 0.5)

    def test_numbered_classes_are_no_names(self, tmp_path: Path) -> None:
        config = {**self.CONFIG, "id2label": {str(k): f"LABEL_{k}" for k in range(3)}}
        assert read_pretrained(self.write(tmp_path, config, {}), model_name="").class_names is None

    def test_imagenets_classes_in_words_are_its_synsets(self, tmp_path: Path) -> None:
        words = ("tench, Tinca tinca", "goldfish, Carassius auratus")
        third = (
            "great white shark, white shark, man-eater, man-eating shark, Carcharodon carcharias"
        )
        names = [*words, third, *map(str, range(997))]
        config = {**self.CONFIG, "id2label": {str(k): name for k, name in enumerate(names)}}
        found = read_pretrained(self.write(tmp_path, config, {}), model_name="").class_names
        assert found is not None
        assert found[:2] == ("n01440764", "n01443537")


@pytest.mark.parametrize(
    ("crop_mode", "kind"),
    [("center", CenterTransform), ("squash", SquashTransform), ("border", BorderTransform)],
)
def test_images_are_seen_as_the_configuration_says(
    tmp_path: Path, crop_mode: str, kind: type
) -> None:
    view = {"crop_mode": crop_mode, "crop_pct": 0.5, "interpolation": "bilinear"}
    names = list(NAMES)
    write_folder(tmp_path / "w", network(), label_names=names, pretrained_cfg=view)
    transform: Any = predictor_at(open_predictor(str(tmp_path / "w"))).transform
    assert type(transform) is kind
    assert transform.resampling.name == "BILINEAR"
    side = {"center": "shorter", "squash": "side", "border": "longer"}[crop_mode]
    assert getattr(transform, side) == 64


def test_timms_own_view_of_a_network_by_name(tmp_path: Path) -> None:
    file = write_file(tmp_path / "w.safetensors", network("resnet18.tv_in1k", classes=1000))
    transform: Any = predictor_at(open_predictor(f"resnet18.tv_in1k={file}")).transform
    assert transform.resampling.name == "BILINEAR"
