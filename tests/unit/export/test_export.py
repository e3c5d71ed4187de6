"""An export decides as the run does, opened by its own runtime; else nothing is left of it."""

import copy
import dataclasses
import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from exports import NAMES, write_run

from deit_transfer.errors import CheckpointError, ResourceError, UsageError
from deit_transfer.export import export as exporting
from deit_transfer.export.export import check_place, export
from deit_transfer.export.formats import FORMATS
from deit_transfer.export.subject import ExportSubject

NEEDS = {"hf": "transformers", "onnx": "onnxscript", "onnx-int8": "onnxscript"}


def needed(name: str) -> str:
    if name in NEEDS:
        pytest.importorskip(NEEDS[name])
    return name


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("plain"))


@pytest.fixture(scope="module")
def distilled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("distilled"), model="deit_micro_distilled")


@pytest.mark.parametrize("name", [name for name in FORMATS if name != "onnx-int8"])
@pytest.mark.parametrize("kind", ["plain", "distilled"])
def test_every_decision_is_equal(
    request: pytest.FixtureRequest, tmp_path: Path, kind: str, name: str
) -> None:
    run: Path = request.getfixturevalue(kind)
    facts = export(run, to=needed(name), out=tmp_path / "new" / "file")
    assert facts["num_images"] == 60
    assert facts["equal_decisions"] + len(facts["ties"]) == 60
    assert facts["most_apart"] < 0.02
    assert facts["bytes"] == sum(
        path.stat().st_size for path in (tmp_path / "new").rglob("*") if path.is_file()
    )
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["file"]
    told = any("averages the logits" in note for note in facts["notes"])
    assert told == (kind == "distilled" and FORMATS[name].averages_logits)


def test_a_raw_onnx_file_takes_normalized_images(plain: Path, tmp_path: Path) -> None:
    needed("onnx")
    import onnxruntime

    export(plain, to="onnx", raw=True, out=tmp_path / "raw.onnx")
    session = onnxruntime.InferenceSession(str(tmp_path / "raw.onnx"))
    for count in (1, 3):
        images = np.zeros((count, 3, 32, 32), np.float32)
        (found,) = session.run(None, {"images": images})
        assert found.shape == (count, 3)
        assert np.allclose(found.sum(axis=1), 1, atol=1e-5)
    assert b"site-packages" not in (tmp_path / "raw.onnx").read_bytes()
    known = session.get_modelmeta().custom_metadata_map
    assert json.loads(known["class_names"]) == list(NAMES)


def test_a_program_names_no_files_of_this_machine(plain: Path, tmp_path: Path) -> None:
    export(plain, to="torch", out=tmp_path / "a.pt2")
    with zipfile.ZipFile(tmp_path / "a.pt2") as archive:
        assert not any(b"site-packages" in archive.read(name) for name in archive.namelist())


def test_8_bits_are_half_the_size_and_lose_little(plain: Path, tmp_path: Path) -> None:
    needed("onnx-int8")
    facts = export(plain, to="onnx-int8", out=tmp_path / "small.onnx", tolerance=5)
    assert facts["bytes"] < 0.5 * (plain / "model.safetensors").stat().st_size
    assert -facts["change"]["points"] <= 5
    assert "quantized the" in facts["notes"][0]


def test_8_bits_that_lose_more_are_refused(
    plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needed("onnx-int8")
    sabotage(monkeypatch, shuffled_head)
    with pytest.raises(CheckpointError, match="8 bits lose") as caught:
        export(plain, to="onnx-int8", out=tmp_path / "small.onnx")
    assert "--tolerance" in caught.value.hint
    assert list(tmp_path.iterdir()) == []


def shuffled_head(subject: ExportSubject) -> ExportSubject:
    classifier = copy.deepcopy(subject.classifier)
    head: Any = classifier.backbone.head
    with torch.no_grad():
        head.weight.copy_(head.weight.roll(1, dims=0))
        head.bias.copy_(head.bias.roll(1))
    return dataclasses.replace(subject, classifier=classifier)


def wrong_mean(subject: ExportSubject) -> ExportSubject:
    classifier = copy.deepcopy(subject.classifier)
    classifier.mean = (0.5, 0.5, 0.5)
    return dataclasses.replace(subject, classifier=classifier)


def forgotten_crop(subject: ExportSubject) -> ExportSubject:
    return dataclasses.replace(subject, crop_pct=1.0)


def sabotage(
    monkeypatch: pytest.MonkeyPatch, change: Callable[[ExportSubject], ExportSubject]
) -> None:
    """Have the format written from something else than the run."""
    write = exporting._write

    def spoiled(wanted: Any, subject: ExportSubject, path: Path, *, raw: bool) -> list[str]:
        return write(wanted, change(subject), path, raw=raw)

    monkeypatch.setattr(exporting, "_write", spoiled)


@pytest.mark.parametrize("name", ["timm", "hf", "onnx", "torch"])
@pytest.mark.parametrize("change", [shuffled_head, wrong_mean, forgotten_crop])
def test_a_file_that_differs_is_refused(
    plain: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    change: Callable[[ExportSubject], ExportSubject],
) -> None:
    sabotage(monkeypatch, change)
    with pytest.raises(CheckpointError, match=r"differ.* and (it )?was removed"):
        export(plain, to=needed(name), out=tmp_path / "deep" / "file")
    assert list(tmp_path.iterdir()) == []


def test_the_paper_code_is_not_given_other_colors(
    plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sabotage(monkeypatch, wrong_mean)
    with pytest.raises(UsageError, match="shows every image with ImageNet's"):
        export(plain, to="deit", out=tmp_path / "file.pth")
    assert list(tmp_path.iterdir()) == []


def test_without_validation_images_the_training_images_are_asked(tmp_path: Path) -> None:
    run = write_run(tmp_path, val_fraction=0.0)
    facts = export(run, to="timm")
    assert facts["num_images"] == 120
    assert "asked about training images" in " ".join(facts["notes"])
    assert facts["path"] == str(run / "exported" / "timm")
    again = export(run, to="timm")  # an earlier export in the run's folder is replaced
    assert again["path"] == facts["path"]
    assert sorted(path.name for path in (run / "exported").iterdir()) == ["timm"]


class TestErrors:
    def test_a_network_that_a_format_does_not_know(self, plain: Path, tmp_path: Path) -> None:
        run = shutil.copytree(plain, tmp_path / "run")
        described = json.loads((run / "model.json").read_text())
        (run / "model.json").write_text(json.dumps(described | {"model": "resnet18"}))
        for name in ("hf", "deit"):
            with pytest.raises(UsageError, match=f"is a resnet18, and --to {name}") as caught:
                export(run, to=name)
            assert "--to timm" in caught.value.hint

    def test_a_run_that_has_not_finished(self, plain: Path, tmp_path: Path) -> None:
        run = shutil.copytree(plain, tmp_path / "run")
        (run / "model.json").unlink()
        with pytest.raises(CheckpointError, match="has not finished") as caught:
            export(run, to="timm")
        assert "--resume" in caught.value.hint

    def test_a_place_that_cannot_be_written(self, plain: Path) -> None:
        with pytest.raises(ResourceError, match="cannot write to /proc/nothing"):
            export(plain, to="timm", out=Path("/proc/nothing/timm"))

    def test_a_place_that_is_taken(self, plain: Path, tmp_path: Path) -> None:
        (tmp_path / "mine").write_text("keep")
        with pytest.raises(UsageError, match="exists already"):
            check_place(tmp_path / "mine", plain)
