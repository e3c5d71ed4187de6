"""Super-categories and the long tail of a dataset that has both, against loops over its images."""

from pathlib import Path

import numpy as np
import pytest
from short_runs import quick

from deit_transfer.evaluation.evaluate import evaluate
from deit_transfer.recipe.loader import load_recipe
from deit_transfer.training.data_splits import load_splits
from deit_transfer.training.train import train

pytestmark = pytest.mark.usefixtures("untimed")


def test_groups_are_those_of_the_dataset(known, tmp_path) -> None:
    name, data_dir = known("inat2018")
    run = Path(train(quick("scratch", name, data_dir), out=tmp_path / "runs")["run"])
    result = evaluate(run, out=tmp_path / "seen")
    splits = load_splits(load_recipe(str(run / "recipe.toml")).data)
    groups = np.array(splits.dataset.groups)
    assert 1 < len(set(groups)) < len(groups)
    with np.load(tmp_path / "seen" / "predictions.npz") as stored:
        given, right = stored["class_logits"].argmax(axis=1), stored["labels"]
    found = result["super_categories"]
    assert found["top1"] == pytest.approx(100 * (groups[given] == groups[right]).mean())
    assert {row["name"] for row in found["groups"]} == set(groups[right])
    shown = np.bincount(splits.train.labels, minlength=len(groups))
    few = [label for label in set(right.tolist()) if shown[label] < 20]
    rates = [100 * (given[right == label] == label).mean() for label in few]
    assert result["long_tail"]["few"]["accuracy"] == pytest.approx(np.mean(rates))
    assert result["long_tail"]["few"]["classes"] == len(few)
    again = evaluate(run, name, overrides={"data.data_dir": str(data_dir)})
    assert again["super_categories"] == found
    assert again["long_tail"] is None  # whose training images these were is not looked up
