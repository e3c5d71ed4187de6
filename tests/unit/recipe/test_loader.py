"""Recipes: closed, checked as a whole, merged by one rule, and the same after being written out."""

import tomllib
from pathlib import Path

import pytest

from deit_transfer.errors import RecipeError, UsageError
from deit_transfer.recipe.checks import scaled_peak_lr
from deit_transfer.recipe.durations import plan_durations, resolution_at
from deit_transfer.recipe.loader import (
    check_values,
    default_recipe_name,
    differing_values,
    dump_recipe,
    field_locations,
    list_recipes,
    load_recipe,
    parse_assignment,
    recipes_root,
)
from deit_transfer.recipe.schema import Schedule
from deit_transfer.recipe.show import annotated_toml
from deit_transfer.recipe.table import recipe_page, with_table


@pytest.mark.parametrize("name", list_recipes())
def test_every_shipped_recipe_is_sound_and_survives_being_written(name: str) -> None:
    recipe = load_recipe(name)
    assert check_values(tomllib.loads(dump_recipe(recipe)), where=name) == recipe
    assert recipe.title
    assert recipe.evidence.summary
    assert set(recipe.sources) <= set(field_locations()), "a source for a setting that is none"


@pytest.mark.parametrize("name", [n for n in list_recipes() if not n.startswith("demo/")])
def test_the_values_that_decide_a_result_have_a_source(name: str) -> None:
    recipe = load_recipe(name)
    evidence = recipe.evidence
    if evidence.measured:  # a figure without its command, time and machine is none
        assert all((evidence.command, evidence.minutes, evidence.hardware))
    for location in ("optim.peak_lr", "optim.weight_decay"):
        assert location in recipe.sources


@pytest.mark.parametrize("name", list_recipes())
def test_a_shown_recipe_is_toml_with_the_same_values(name: str) -> None:
    recipe = load_recipe(name)
    shown = tomllib.loads(annotated_toml(recipe))
    assert check_values(shown, where=name).model_copy(update={"sources": {}}) == recipe.model_copy(
        update={"sources": {}}
    )


def test_three_faults_are_listed_at_once_with_suggestions(tmp_path: Path) -> None:
    path = tmp_path / "bad.toml"
    path.write_text(
        'mode = "finetune"\n[optim]\npeak_lrr = 1e-3\nweight_decay = 5\n[model]\ndrop_path = "x"\n'
    )
    with pytest.raises(RecipeError) as caught:
        load_recipe(str(path))
    assert len(caught.value.faults) == 3
    text = str(caught.value)
    assert "optim.peak_lrr: no such setting. Did you mean optim.peak_lr" in text
    assert "optim.weight_decay" in text
    assert "model.drop_path" in text
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("changes", "location"),
    [
        ({"optim": {"floor_lr": 1e-3}}, "optim.floor_lr"),
        ({"optim": {"warmup_lr": 1e-3}}, "optim.warmup_lr"),
        ({"optim": {"label_loss": "bce"}}, "augment.smoothing"),
        ({"schedule": {"epochs": 2, "warmup_epochs": 2}}, "schedule.warmup_epochs"),
        ({"schedule": {"micro_batch_size": 128}}, "schedule.micro_batch_size"),
        ({"schedule": {"progressive": [[112, 1.0]]}}, "schedule.progressive"),
        ({"data": {"train_limit": 10, "fraction": 0.5}}, "data.fraction"),
        ({"distill": {"kind": "hard", "through": "class"}}, "distill.teacher"),
        ({"distill": {"teacher": "runs/x"}}, "distill.kind"),
        ({"distill": {"kind": "hard", "teacher": "runs/x"}}, "model.name"),
        ({"model": {"two_class_tokens": True}}, "model.two_class_tokens"),
    ],
)
def test_a_contradiction_between_settings_is_named(changes: dict, location: str) -> None:
    with pytest.raises(RecipeError) as caught:
        check_values({"mode": "finetune", **changes}, where="test")
    assert [fault.split(":")[0] for fault in caught.value.faults] == [location]


def test_a_flag_beats_the_recipe_which_beats_its_parent(tmp_path: Path) -> None:
    (tmp_path / "parent.toml").write_text(
        'mode = "scratch"\n[optim]\npeak_lr = 1e-3\nweight_decay = 0.01\n[schedule]\nepochs = 3\n'
        '[evidence]\nmeasured = "80"\n'
    )
    child = tmp_path / "child.toml"
    child.write_text('extends = "parent.toml"\n[optim]\npeak_lr = 2e-3\n')
    recipe = load_recipe(str(child), overrides={"schedule.epochs": 7})
    assert recipe.optim.peak_lr == 2e-3  # the child's
    assert recipe.optim.weight_decay == 0.01  # the parent's
    assert recipe.schedule.epochs == 7  # the flag's
    assert recipe.optim.eps == 1e-8  # the schema's
    assert recipe.evidence.measured == ""  # the parent's figure is not the child's


def test_a_recipe_that_extends_itself_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text('extends = "b.toml"\n')
    (tmp_path / "b.toml").write_text('extends = "a.toml"\n')
    with pytest.raises(RecipeError, match="extends itself"):
        load_recipe(str(tmp_path / "a.toml"))


@pytest.mark.parametrize("text", ['mode = "scratch"\nmode = "finetune"', "= 1", "a = [" * 3000])
def test_text_that_is_no_toml_is_a_recipe_error(tmp_path: Path, text: str) -> None:
    path = tmp_path / "bad.toml"
    path.write_text(text)
    with pytest.raises(RecipeError, match="not valid TOML"):
        load_recipe(str(path))


def test_an_unknown_recipe_gets_a_suggestion() -> None:
    with pytest.raises(UsageError, match="Did you mean finetune/cifar10"):
        load_recipe("finetune/cifar11")


def test_assignments_are_read_as_toml_and_else_as_text() -> None:
    assert parse_assignment("optim.peak_lr=2e-5") == ("optim.peak_lr", 2e-5)
    assert parse_assignment("optim.ema=false") == ("optim.ema", False)
    assert parse_assignment("distill.kind=hard") == ("distill.kind", "hard")
    assert parse_assignment("optim.betas=[0.9, 0.98]") == ("optim.betas", [0.9, 0.98])
    with pytest.raises(UsageError, match=r"section\.key=value"):
        parse_assignment("optim.peak_lr")


def test_a_list_is_read_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "classes.txt"
    path.write_text("cat\n\n  Ara ararauna \n")
    assert parse_assignment(f"data.classes=@{path}") == ("data.classes", ["cat", "Ara ararauna"])
    path.write_bytes(b"\xff\xfe")
    for missing in (path, tmp_path / "none.txt"):
        with pytest.raises(UsageError, match=f"cannot read {missing}"):
            parse_assignment(f"data.classes=@{missing}")


def test_the_learning_rate_is_stated_at_batch_512() -> None:
    recipe = load_recipe("paper/finetune/cifar10")
    # 5e-6 before and 7.5e-6 after scaling at batch 768 are one recipe
    assert scaled_peak_lr(recipe) == pytest.approx(7.5e-6)
    assert recipe.optim.floor_lr <= scaled_peak_lr(recipe)


def test_a_dataset_without_its_own_recipe_gets_that_of_any_folder() -> None:
    assert default_recipe_name("finetune", "cifar10") == "finetune/cifar10"
    assert default_recipe_name("finetune", "./photos") == "finetune/folder"
    assert (recipes_root() / "finetune" / "folder.toml").is_file()


def test_differences_name_settings_and_leave_descriptions_out() -> None:
    a, b = load_recipe("finetune/cifar10"), load_recipe("finetune/cifar100")
    assert differing_values(a, b) == {"data.dataset": ("cifar10", "cifar100")}


def test_durations_raise_the_epochs_and_cut_the_steps() -> None:
    schedule = Schedule(epochs=4, min_steps=100, warmup_epochs=1.0, batch_size=10)
    long_enough = plan_durations(schedule, images_per_epoch=495)
    assert (long_enough.epochs, long_enough.total_steps, long_enough.raised) == (4, 200, False)
    assert long_enough.warmup_steps == 50
    assert long_enough.images_to_see == 4 * 495  # the last batch of an epoch has 5 images
    raised = plan_durations(schedule, images_per_epoch=100)
    assert (raised.epochs, raised.total_steps, raised.raised) == (10, 100, True)
    assert raised.warmup_steps == 25  # a quarter of the run, as before
    cut = plan_durations(schedule.model_copy(update={"max_steps": 120}), images_per_epoch=495)
    assert (cut.epochs, cut.total_steps) == (3, 120)
    assert cut.images_to_see == 2 * 495 + 20 * 10


def test_progressive_stages_come_in_order_and_end_at_the_full_resolution() -> None:
    schedule = Schedule(progressive=((96, 0.5), (128, 0.25)))
    seen = [resolution_at(schedule, epoch=e, epochs=8, resolution=224) for e in range(8)]
    assert seen == [96] * 4 + [128] * 2 + [224] * 2


def test_the_page_of_recipes_says_what_the_recipes_say() -> None:
    page = (recipes_root() / "README.md").read_text(encoding="utf-8")
    assert page == recipe_page(), "python -m deit_transfer.recipe.table"
    docs = (recipes_root().parent / "docs" / "recipes.md").read_text(encoding="utf-8")
    assert docs == with_table(docs), "python -m deit_transfer.recipe.table"
    assert "28.9 top-1" in docs
    with pytest.raises(ValueError, match="has no <!-- begin"):
        with_table("no marks")
