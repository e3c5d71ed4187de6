"""What names a result: what decides it, and nothing else; and it outlives new settings."""

import json
from typing import Any

import pytest
import torch

from deit_transfer.models.pretrained import PretrainedWeights
from deit_transfer.recipe.loader import load_recipe
from deit_transfer.recipe.schema import Recipe
from deit_transfer.runs.key import DEFAULTS_VERSION, run_key

NOTHING = PretrainedWeights({}, "nothing")
# The defaults of version 1. A setting that is new is added here; one whose default changes
# raises DEFAULTS_VERSION, since runs of before were made with the other.
DEFAULTS = json.loads("""
{
 "mode": "scratch",
 "compat": "none",
 "data": {
  "dataset": "",
  "data_dir": null,
  "classes": [],
  "rank": "species",
  "class_order": "id",
  "train_on": "train",
  "train_limit": null,
  "fraction": null,
  "val_fraction": 0.1,
  "val_limit": 5000,
  "select": "auto",
  "headline": "top1",
  "split_seed": 0,
  "decode_cache_mb": 2048,
  "allow_bad": false
 },
 "model": {
  "name": "deit_small_patch16_224",
  "pretrained": "none",
  "resolution": null,
  "drop_path": 0.1,
  "patch_drop": 0.0,
  "dropout": 0.0,
  "freeze": "none",
  "head_start": "random",
  "keep_head": false,
  "two_class_tokens": false
 },
 "augment": {
  "policy": "randaugment",
  "randaugment": "rand-m9-mstd0.5-inc1",
  "color_jitter": 0.0,
  "crop": "resized",
  "crop_scale_min": 0.08,
  "hflip": 0.5,
  "erasing": 0.25,
  "mixup": 0.8,
  "cutmix": 1.0,
  "mix_prob": 1.0,
  "switch_prob": 0.5,
  "smoothing": 0.1,
  "repeats": 1,
  "seed": null,
  "crop_pct": null
 },
 "optim": {
  "name": "adamw",
  "peak_lr": 0.0005,
  "floor_lr": 1e-06,
  "warmup_lr": 1e-06,
  "weight_decay": 0.05,
  "betas": [
   0.9,
   0.999
  ],
  "eps": 1e-08,
  "momentum": 0.9,
  "layer_decay": 1.0,
  "clip_grad_norm": null,
  "label_loss": "ce",
  "balance": "none",
  "ema": true,
  "ema_decay": null
 },
 "schedule": {
  "epochs": 10,
  "min_steps": 0,
  "max_steps": null,
  "warmup_epochs": 1.0,
  "batch_size": 64,
  "micro_batch_size": null,
  "progressive": []
 },
 "distill": {
  "teacher": null,
  "kind": "none",
  "through": "token",
  "alpha": 0.5,
  "tau": 3.0,
  "cache": null,
  "cache_top_k": 32
 },
 "run": {
  "seed": 0,
  "device": "auto",
  "precision": "auto",
  "attention": "auto",
  "compile": "auto",
  "graph": "auto",
  "workers": null,
  "time_budget_minutes": null,
  "eval_batch_size": 128,
  "save_every_minutes": 10.0,
  "nonfinite": "error",
  "nonfinite_budget": 5
 }
}
""")


def key(**overrides: Any) -> str:
    given = {place.replace("__", "."): value for place, value in overrides.items()}
    return run_key(load_recipe("scratch/digits", overrides=given), "data", NOTHING)


def test_the_defaults_are_those_of_the_version() -> None:
    shown = Recipe(mode="scratch").model_dump(mode="json", exclude={"title", "evidence", "sources"})
    assert DEFAULTS_VERSION == 2
    assert shown == DEFAULTS


@pytest.mark.parametrize(
    "change",
    [
        {"run__seed": 1},
        {"optim__peak_lr": 1e-4},
        {"augment__mixup": 0.123},
        {"model__patch_drop": 0.5},
        {"data__train_limit": 50},
    ],
)
def test_what_decides_the_result_changes_the_key(change: dict[str, Any]) -> None:
    assert key(**change) != key()


@pytest.mark.parametrize(
    "change", [{"run__workers": 3}, {"data__data_dir": "/elsewhere"}, {"run__precision": "fp32"}]
)
def test_where_it_is_computed_does_not(change: dict[str, Any]) -> None:
    assert key(**change) == key()


def test_data_and_start_change_it() -> None:
    recipe = load_recipe("scratch/digits")
    start = PretrainedWeights({"head.weight": torch.zeros(2)}, "somewhere")
    other = PretrainedWeights({"head.weight": torch.ones(2)}, "somewhere")
    keys = {
        run_key(recipe, data, weights) for data in ("a", "b") for weights in (NOTHING, start, other)
    }
    assert len(keys) == 6


def test_a_setting_at_its_default_is_not_in_it() -> None:
    assert key(model__patch_drop=0.0) == key()
