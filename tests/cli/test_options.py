"""The command line is small and frozen: a new setting belongs to the recipe schema."""

import typer.main

from deit_transfer.cli.app import app
from deit_transfer.cli.options import FLAG_LOCATIONS
from deit_transfer.recipe.loader import field_locations

TRAINING = {
    "--model", "--recipe", "--data-dir", "--rank", "--epochs", "--batch-size", "--lr",
    "--resolution", "--seed", "--train-limit", "--fraction", "--workers", "--device", "--precision",
    "--time-budget", "--set", "--teacher", "--distill", "--teacher-cache",
}  # fmt: skip
PLACE = {"--out", "--name", "--resume", "--nproc"}
SCREEN = {"--json", "--quiet", "-q"}
ASKING = {"--device", "--precision", "--workers"}

ALLOWED = {
    "demo": {"--seeds", "--out"} | SCREEN,
    "finetune": TRAINING | SCREEN | PLACE | {"--from"},
    # --from is hidden in what starts from nothing: it names the command that takes it
    "scratch": TRAINING | SCREEN | PLACE | {"--from"},
    "pretrain": TRAINING | SCREEN | PLACE | {"--from"},
    "teacher fit": TRAINING | SCREEN | PLACE | {"--from"},
    "compare": TRAINING
    | SCREEN
    | {"--from", "--arms", "--fractions", "--seeds", "--budget", "--out", "--name"},
    "sweep": TRAINING
    | SCREEN
    | {"--grid", "--space", "--trials", "--pruner", "--recipes", "--mode"}
    | {"--from", "--out", "--name"},
    "epochs": TRAINING | SCREEN | {"--grid", "--from", "--seeds", "--out", "--name"},
    "evaluate": SCREEN
    | ASKING
    | {
        "--data-dir",
        "--split",
        "--heads",
        "--tta",
        "--resolutions",
        "--per-class",
        "--temperature",
        "--out",
    },
    "predict": SCREEN | ASKING | {"--top", "--heads", "--csv"},
    "probe": SCREEN
    | ASKING
    | {
        "--data-dir",
        "--rank",
        "--train-limit",
        "--fraction",
        "--resolution",
        "--seed",
        "--cache",
        "--out",
        "--set",
    },
    "disagree": SCREEN | {"--on", "--out", "--data-dir", "--device"},
    "tokens": SCREEN | {"--dataset", "--images", "--out", "--data-dir", "--device"},
    "plan finetune": TRAINING | {"--from", "--out", "--json"},
    "plan scratch": TRAINING | {"--from", "--out", "--json"},
    "export": SCREEN | {"--to", "--out", "--tolerance", "--raw"},
    "card": {"--out"},
    "push": SCREEN | {"--private", "--dry-run"},
    "report": SCREEN | {"--out", "--images", "--data-dir"},
    "recipes list": {"--json"},
    "recipes show": {"--json"},
    "recipes diff": {"--json"},
    "recipes check": {"--json"},
    "data list": {"--data-dir", "--json"},
    "data prepare": {"--data-dir", "--json"},
    "data check": {"--data-dir", "--rank", "--set", "--json"},
    "data preview": {"--out", "--images", "--recipe", "--data-dir", "--set", "--json"},
    "runs list": {"--json"},
    "runs show": {"--json"},
    "runs compare": {"--json"},
    "runs clean": {"--dry-run", "--json"},
    "paper": {"--runs", "--out", "--json"},
    "throughput": SCREEN
    | {
        "--batch-size",
        "--resolution",
        "--repeats",
        "--against",
        "--out",
        "--device",
        "--precision",
    },
}


def found_options() -> dict[str, set[str]]:
    found = {}

    def walk(command: object, name: str) -> None:
        for child_name, child in getattr(command, "commands", {}).items():
            walk(child, f"{name} {child_name}".strip())
        if not hasattr(command, "commands"):
            options = {
                text for p in command.params if p.param_type_name == "option" for text in p.opts
            }
            found[name] = options - {"--help"}

    walk(typer.main.get_command(app), "")
    return found


def test_no_command_and_no_option_was_added_or_lost() -> None:
    assert found_options() == ALLOWED


def test_every_flag_changes_a_setting_that_exists() -> None:
    assert set(FLAG_LOCATIONS.values()) <= set(field_locations())
