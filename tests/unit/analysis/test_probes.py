"""Frozen features are computed once and are the network's; both probes are scikit-learn's."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from deit_transfer.analysis import probe as probe_module
from deit_transfer.analysis.probe import count_votes, logistic_probe, make_folds, neighbor_probe
from deit_transfer.data.dataset import ImageSet
from deit_transfer.engine.precision import resolve_precision
from deit_transfer.errors import CheckpointError, DataError
from deit_transfer.evaluation.features import (
    Features,
    backbone_digest,
    embeddings,
    extract_features,
    named_embeddings,
)
from deit_transfer.evaluation.probe import ProbeResult, probe_arm
from deit_transfer.models.classifier import Classifier, build_classifier
from deit_transfer.models.pretrained import PretrainedWeights
from deit_transfer.recipe.loader import load_recipe
from deit_transfer.report.probe import probe_table
from deit_transfer.runs.predictions import UNDECIDED
from deit_transfer.training.data_splits import load_splits

CPU = torch.device("cpu")
RECIPE = load_recipe("finetune/folder", overrides={"run.device": "cpu", "run.eval_batch_size": 5})
FP32 = resolve_precision("fp32", CPU)


def pictures(count: int, *, seed: int = 0) -> ImageSet:
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (count, 20, 20, 3), dtype=np.uint8)
    return ImageSet.from_arrays(images, np.arange(count) % 3)


def network(name: str = "deit_micro", *, seed: int = 0, num_classes: int = 3) -> Classifier:
    torch.manual_seed(seed)
    return build_classifier(name=name, num_classes=num_classes, resolution=16).eval()


def extracted(
    classifier: Classifier, images: ImageSet, folder: Path, **changes: object
) -> Features:
    return extract_features(
        classifier,
        images,
        **{"recipe": RECIPE, "device": CPU, "precision": FP32, "folder": folder, **changes},
    )


Drawn = tuple[np.ndarray, np.ndarray]


def blobs(seed: int, *, per_class: int, num_classes: int = 4, spread: float = 1.5) -> Drawn:
    """Return values (N, 12) around a center a class, and their labels (N,)."""
    centers = np.random.default_rng(99).normal(size=(num_classes, 12))
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(num_classes), per_class)
    values = centers[labels] + spread * rng.normal(size=(len(labels), 12))
    return values.astype(np.float32), labels


@pytest.mark.parametrize("name", ["deit_micro", "deit_micro_distilled", "resnet10t"])
def test_features_are_what_the_heads_read(name: str) -> None:
    classifier = network(name)
    images = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        found, heads = embeddings(classifier, images), classifier(images)
    own = classifier.backbone.get_classifier()
    class_head, distill_head = own if classifier.distilled else (own, None)
    read = next(iter(named_embeddings(classifier).values()))[0]
    torch.testing.assert_close(class_head(found[:, read]), heads.class_logits)
    if distill_head is not None:
        torch.testing.assert_close(distill_head(found[:, 1]), heads.distill_logits)


def test_the_last_blocks_are_the_class_tokens_after_them_under_the_final_norm() -> None:
    classifier = network("deit_micro")
    backbone, images = classifier.backbone, torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        found = embeddings(classifier, images)  # (B, 4, D)
        tokens = backbone.norm_pre(
            backbone.patch_drop(backbone._pos_embed(backbone.patch_embed(images)))
        )
        for place, block in enumerate(backbone.blocks):
            tokens = block(tokens)
            torch.testing.assert_close(found[:, place], backbone.norm(tokens)[:, 0])
    assert named_embeddings(classifier) == {"class": (3,), "last 4 blocks": (0, 1, 2, 3)}


def test_kept_features_are_those_that_were_computed(tmp_path: Path) -> None:
    classifier, images = network(), pictures(12)
    first = extracted(classifier, images, tmp_path)
    second = extracted(classifier, images, tmp_path)
    assert (first.computed, second.computed) == (12, 0)
    assert first.kept_seconds == 0 < second.kept_seconds
    np.testing.assert_array_equal(first.values, second.values)


def test_any_part_in_any_order_is_found_again_and_only_the_rest_computed(tmp_path: Path) -> None:
    classifier, images = network(), pictures(12)
    whole = extracted(classifier, images, tmp_path / "whole")
    extracted(classifier, images.subset([7, 2, 5]), tmp_path / "parts")
    joined = extracted(classifier, images, tmp_path / "parts")
    assert joined.computed == 9
    np.testing.assert_allclose(joined.values, whole.values, rtol=1e-4, atol=1e-5)


def test_an_image_whose_content_changed_is_computed_again(
    tmp_path: Path, image_folder: Callable[..., Path]
) -> None:
    folder = image_folder("photos", train=2, test=1, size=16)
    recipe = RECIPE.model_copy(
        update={"data": RECIPE.data.model_copy(update={"dataset": str(folder)})}
    )
    classifier = network()
    before = extracted(classifier, load_splits(recipe.data).test, tmp_path / "kept")
    other = folder / "train" / "owl" / "000.png"
    (folder / "test" / "cat" / "000.png").write_bytes(other.read_bytes())
    after = extracted(classifier, load_splits(recipe.data).test, tmp_path / "kept")
    assert after.computed == 1
    changed = (before.values != after.values).any(axis=(1, 2))
    assert changed.tolist() == [True, False, False]


def test_another_head_shares_features_and_other_weights_do_not(tmp_path: Path) -> None:
    images, classifier = pictures(6), network(num_classes=3)
    extracted(classifier, images, tmp_path)
    same = network(num_classes=7)
    same.load_state_dict(
        {k: v for k, v in classifier.state_dict().items() if ".head." not in k}, strict=False
    )
    assert backbone_digest(same.backbone) == backbone_digest(classifier.backbone)
    assert extracted(same, images, tmp_path).computed == 0
    with torch.no_grad():
        same.backbone.cls_token[0, 0, 0] += 0.01
    assert extracted(same, images, tmp_path).computed == 6


@pytest.mark.parametrize("setting", ["crop", "precision", "colors"])
def test_another_view_of_the_images_has_its_own_features(tmp_path: Path, setting: str) -> None:
    classifier, images = network(), pictures(6)
    extracted(classifier, images, tmp_path)
    changes: dict[str, object] = {}
    if setting == "crop":
        augment = RECIPE.augment.model_copy(update={"crop_pct": 0.7})
        changes["recipe"] = RECIPE.model_copy(update={"augment": augment})
    elif setting == "precision":
        changes["precision"] = resolve_precision("bf16", CPU)
    else:
        classifier.mean = (0.1, 0.2, 0.3)
    assert extracted(classifier, images, tmp_path, **changes).computed == 6


def test_a_damaged_store_is_made_again(tmp_path: Path) -> None:
    classifier, images = network(), pictures(6)
    first = extracted(classifier, images, tmp_path)
    store = next(tmp_path.glob("*.npz"))
    content = bytearray(store.read_bytes())
    content[len(content) // 2] ^= 0xFF
    store.write_bytes(content)
    again = extracted(classifier, images, tmp_path)
    assert again.computed == 6
    np.testing.assert_array_equal(again.values, first.values)
    assert extracted(classifier, images, tmp_path).computed == 0


def test_two_at_work_at_once_lose_nothing(tmp_path: Path) -> None:
    classifier, images = network(), pictures(10)
    begun = False

    def other_process(_done: int, _total: int) -> None:
        nonlocal begun
        if not begun:
            begun = True
            extracted(classifier, images.subset(range(5, 10)), tmp_path)

    extracted(classifier, images.subset(range(5)), tmp_path, progress=other_process)
    assert extracted(classifier, images, tmp_path).computed == 0
    assert len(list(tmp_path.iterdir())) == 2  # the store and its lock


def test_what_is_computed_is_kept_when_it_is_stopped(tmp_path: Path) -> None:
    classifier, images = network(), pictures(12)

    def stop(done: int, _total: int) -> None:
        if done == 10:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        extracted(classifier, images, tmp_path, progress=stop)
    assert extracted(classifier, images, tmp_path).computed == 2


def test_a_folder_that_cannot_be_written_only_costs_the_keeping(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    assert extracted(network(), pictures(6), blocked / "folder").computed == 6


def test_weights_that_are_not_numbers_are_refused(tmp_path: Path) -> None:
    classifier = network()
    with torch.no_grad():
        classifier.backbone.norm.weight[0] = torch.nan
    with pytest.raises(CheckpointError, match="NaN or Inf"):
        extracted(classifier, pictures(6), tmp_path)


def by_hand(c: float, known: np.ndarray, labels: np.ndarray) -> Pipeline:
    model = make_pipeline(StandardScaler(), LogisticRegression(C=c, max_iter=5000, tol=1e-8))
    return model.fit(known.astype(np.float64), labels)


def out_of_fold_top1(c: float, values: np.ndarray, labels: np.ndarray) -> float:
    right = [
        by_hand(c, values[fitted], labels[fitted]).predict(values[held]) == labels[held]
        for fitted, held in make_folds(labels)
    ]
    return 100 * float(np.concatenate(right).mean())


def test_the_best_penalty_on_folds_is_refitted_on_all_images() -> None:
    values, labels = blobs(0, per_class=15)
    test, _ = blobs(2, per_class=20)
    found = logistic_probe(values, labels, num_classes=4)
    for c, top1 in found.tried.items():
        assert top1 == pytest.approx(out_of_fold_top1(c, values, labels), abs=1.7)  # one of 60
    assert found.fold_top1 == max(found.tried.values()) == found.tried[found.c]
    assert 5 < len(found.tried) < 15
    expected = by_hand(found.c, values, labels).decision_function(test)
    np.testing.assert_allclose(found.logits(test), expected, atol=5e-3)
    assert found.converged
    assert not found.at_edge


def test_folds_hold_every_image_out_once_and_are_stratified() -> None:
    labels = np.repeat([0, 1], [20, 10])
    folds = make_folds(labels)
    assert sorted(np.concatenate([held for _, held in folds]).tolist()) == list(range(30))
    for fitted, held in folds:
        assert np.bincount(labels[held]).tolist() == [4, 2]
        assert not set(fitted.tolist()) & set(held.tolist())


def test_many_images_are_held_out_once() -> None:
    ((fitted, held),) = make_folds(np.arange(2000) % 4)
    assert (len(fitted), len(held)) == (1600, 400)


def test_one_image_a_class_leaves_nothing_to_choose_on() -> None:
    values, labels = blobs(0, per_class=1)
    found = logistic_probe(values, labels, num_classes=4)
    assert found.c == 1.0
    assert np.isnan(found.fold_top1)
    assert found.tried == {}
    assert found.logits(values).argmax(axis=1).tolist() == [0, 1, 2, 3]


def test_two_classes_have_two_logits_and_an_absent_class_is_never_answered() -> None:
    values, labels = blobs(0, per_class=15, num_classes=2)
    test, _ = blobs(1, per_class=8, num_classes=2)
    found = logistic_probe(values, 2 * labels, num_classes=4)  # classes 0 and 2 of four
    logits = found.logits(test)
    assert logits.shape == (16, 4)
    assert set(logits.argmax(axis=1)) == {0, 2}
    ours = torch.from_numpy(logits).softmax(dim=-1).numpy()
    expected = by_hand(found.c, values, labels).predict_proba(test)
    np.testing.assert_allclose(ours[:, [0, 2]], expected, atol=1e-3)
    assert ours[:, [1, 3]].max() < 1e-12


@pytest.mark.parametrize("k", [1, 3, 10])
def test_neighbors_vote_as_those_of_scikit_learn(k: int, monkeypatch: Any) -> None:
    monkeypatch.setattr(probe_module, "NEIGHBORS", (k,))
    monkeypatch.setattr(probe_module, "_ways", lambda _: ("plain",))
    values, labels = blobs(0, per_class=20)
    test, _ = blobs(2, per_class=20)
    found = neighbor_probe(values, labels, test, num_classes=4)
    reference = KNeighborsClassifier(k, metric="cosine", algorithm="brute").fit(values, labels)
    left_out = reference.predict(None)  # scikit-learn leaves each image out of its own vote
    assert found.fold_top1 == pytest.approx(100 * float(np.mean(left_out == labels)), abs=1.3)
    np.testing.assert_allclose(found.votes, reference.predict_proba(test), atol=1e-6)


def test_the_number_of_neighbors_is_the_one_that_left_out_images_prefer() -> None:
    values, labels = blobs(0, per_class=30, spread=3.0)
    found = neighbor_probe(values, labels, values, num_classes=4)
    plain = {}
    for k in (1, 3, 5, 10, 20):
        model = KNeighborsClassifier(k, metric="cosine", algorithm="brute").fit(values, labels)
        plain[k] = 100 * float(np.mean(model.predict(None) == labels))
    assert found.fold_top1 >= max(plain.values()) - 1
    assert found.fold_top1 > plain[1]
    assert found.k < len(values)


def test_weighted_votes_fall_with_the_angle() -> None:
    labels = np.array([[0, 1, 1]])
    similarity = np.array([[0.9, 0.5, 0.4]])
    plain = count_votes(labels, similarity, weighing="plain", num_classes=2)
    weighted = count_votes(labels, similarity, weighing="weighted", num_classes=2)
    np.testing.assert_allclose(plain, [[1 / 3, 2 / 3]], rtol=1e-6)
    shares = np.exp(similarity[0] / 0.07)
    np.testing.assert_allclose(weighted[0, 0], shares[0] / shares.sum(), rtol=1e-6)


def probed_folder(folder: Path, tmp_path: Path, model: str, **settings: object) -> ProbeResult:
    values = {
        "data.dataset": str(folder),
        "model.name": model,
        "model.resolution": 16,
        "run.device": "cpu",
        "run.attention": "fused",
        **settings,
    }
    recipe = load_recipe("finetune/folder", overrides=values)
    start = PretrainedWeights(network(model).backbone.state_dict(), "the test", model_name=model)
    return probe_arm(recipe, load_splits(recipe.data), start, cache=tmp_path / "kept")


def test_an_arm_answers_the_test_split_in_its_own_order(
    tmp_path: Path, image_folder: Callable[..., Path]
) -> None:
    folder = image_folder("photos", train=12, test=5, size=16)
    probed = probed_folder(folder, tmp_path, "deit_micro_distilled")
    result = probed.result
    splits = load_splits(
        load_recipe("finetune/folder", overrides={"data.dataset": str(folder)}).data
    )
    assert result["counts"] == {"train": 36, "test": 15}
    assert result["folds"] == 5
    assert result["data_fingerprint"] == splits.fingerprint
    assert probed.predictions.ids.tolist() == list(splits.test.ids)
    assert probed.correct.shape == (15,)
    assert 100 * probed.correct.mean() == pytest.approx(result["top1"])
    assert result["top1"] > 90  # a hue a class
    assert result["images_seen"] == 36
    names = [row["embedding"] for row in result["embeddings"]]
    assert names == ["class", "distill", "both"]
    assert [row["dimensions"] for row in result["embeddings"]] == [96, 96, 192]
    chosen = next(r for r in result["embeddings"] if r["embedding"] == result["embedding"])
    assert chosen["fold_top1"] == max(row["fold_top1"] for row in result["embeddings"])
    assert chosen["top1"] == result["top1"]


def test_validation_images_join_the_labeled_images(
    tmp_path: Path, image_folder: Callable[..., Path]
) -> None:
    folder = image_folder("photos", train=12, test=2, size=16)
    settings = {"data.val_fraction": 0.25, "data.select": "val"}
    result = probed_folder(folder, tmp_path, "deit_micro", **settings).result
    assert result["counts"] == {"train": 36, "test": 6}


def test_an_unreadable_image_is_wrong_in_test_and_refused_in_train(
    tmp_path: Path, image_folder: Callable[..., Path]
) -> None:
    folder = image_folder("photos", train=12, test=2, size=16)
    (folder / "test" / "dog" / "001.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match="cannot be read"):
        probed_folder(folder, tmp_path, "deit_micro")
    probed = probed_folder(folder, tmp_path, "deit_micro", **{"data.allow_bad": True})
    broken = probed.predictions.ids.tolist().index("test/dog/001.png")
    assert probed.predictions.decisions()[broken] == UNDECIDED
    assert not probed.correct[broken]
    assert probed.result["top1"] <= 100 * 5 / 6 + 1e-9
    assert probed.result["knn_top1"] <= 100 * 5 / 6 + 1e-9
    (folder / "train" / "dog" / "001.png").write_bytes(b"no picture either")
    with pytest.raises(DataError, match="training or validation"):
        probed_folder(folder, tmp_path, "deit_micro", **{"data.allow_bad": True})


def test_parts_of_the_network_that_are_random_are_named(
    tmp_path: Path, image_folder: Callable[..., Path]
) -> None:
    folder = image_folder("photos", train=12, test=2, size=16)
    recipe = load_recipe(
        "finetune/folder",
        overrides={
            "data.dataset": str(folder),
            "model.name": "deit_micro_distilled",
            "model.resolution": 16,
            "run.device": "cpu",
        },
    )
    plain = PretrainedWeights(network().backbone.state_dict(), "a plain network")
    notes = probe_arm(recipe, load_splits(recipe.data), plain, cache=tmp_path / "kept").result[
        "notes"
    ]
    assert any("dist_token" in note and "random" in note for note in notes)


def test_the_widest_table_of_a_distilled_network_fits_80_columns(
    tmp_path: Path, image_folder: Callable[..., Path]
) -> None:
    folder = image_folder("photos", train=12, test=5, size=16)
    result = probed_folder(folder, tmp_path, "deit_micro_distilled").result
    widest = {"dimensions": 1536, "top1": 100.0, "knn_top1": 100.0, "C": 10**-2.5}
    votes = {"fold_top1": 100.0, "knn_fold_top1": 88.8, "k": 200, "votes": "weighted"}
    rows = [{**row, **widest, **votes} for row in result["embeddings"]]
    stream = io.StringIO()
    console = Console(file=stream, width=80, no_color=True, highlight=False)
    console.print(probe_table({**result, "embeddings": rows}))
    lines = stream.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    for name in ("class", "distill", "both"):
        cells = "1536 | 100.00 | 100.0 | 0.0032 | 100.00 | 88.8 | 200 weighted"
        found = [" ".join(line.split()) for line in lines if line.startswith(f"| {name} ")]
        assert found == [f"| {name} | {cells} |"]
    chosen = f"C, k, votes and embedding ({result['embedding']}) were chosen by"
    assert chosen in " ".join(" ".join(lines).split())
