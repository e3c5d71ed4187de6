"""Checks that a command makes before it imports torch, so that a mistake is answered at once.

They raise what the work itself would, only seconds earlier; none of them opens an image.
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deit_transfer.errors import DataError

if TYPE_CHECKING:
    from deit_transfer.recipe.schema import Mode


def check_run(path: Path) -> None:
    """Raise DataError where a folder is no run."""
    from deit_transfer.runs.folder import open_run

    open_run(path)


def check_folder(path: Path) -> None:
    """Raise DataError where there is no such folder."""
    if not path.is_dir():
        raise DataError(
            f"there is no folder {path}",
            hint="deit-transfer runs list FOLDER shows the runs below a folder",
        )


def check_subjects(*subjects: str) -> None:
    """Raise where what is to be evaluated is neither a run nor the name of a network.

    Whether timm knows the name is found out by timm, which needs torch.
    """
    from deit_transfer.runs.model_reference import split_model_weights

    for subject in subjects:
        path = Path(subject)
        is_weights = path.is_file() or subject.startswith(("local-dir:", "hf-hub:"))
        if is_weights or ((path / "config.json").is_file() and not (path / "recipe.toml").exists()):
            continue  # of which network is found out when they are read
        if path.is_dir() or ("/" in subject and "=" not in subject):
            check_run(Path(subject))
        else:
            split_model_weights(subject)


def check_datasets(names: Iterable[str]) -> None:
    """Raise where a name is no dataset, no address and no folder."""
    from deit_transfer.data.catalog import check_name

    for name in names:
        check_name(name)


def check_paths(paths: Sequence[Path]) -> None:
    """Raise DataError for the first file or folder that does not exist."""
    for path in paths:
        if not path.exists():
            raise DataError(f"there is no {path}", hint="Give image files, or folders of images")


def check_image_files(paths: Sequence[Path]) -> None:
    """Raise DataError for the first that is no file."""
    for path in paths:
        if not path.is_file():
            raise DataError(
                f"there is no image file {path}",
                hint="Give paths of image files, such as photos/cat.jpg; --dataset takes datasets",
            )


def check_new_run(out: Path, name: str | None, *, resume: bool) -> None:
    """Raise UsageError where the run's folder exists already.

    Only in the process that was typed: of those that it starts, one makes the folder.
    """
    from deit_transfer.runs.folder import RunFolder, taken

    if name is not None and not resume and "WORLD_SIZE" not in os.environ:
        folder = RunFolder(out / name)
        if folder.path.exists():
            raise taken(folder)


def check_new_folder(out: Path, name: str | None, *, what: str) -> None:
    """Raise UsageError where the folder of a comparison or another result exists already."""
    from deit_transfer.runs.folder import refuse_taken_name

    refuse_taken_name(out, name, what=what)


def check_overrides(
    mode: "Mode", dataset: str, overrides: Mapping[str, Any], *, recipe_name: str | None = None
) -> None:
    """Raise RecipeError for settings that no recipe has, or whose values are out of range."""
    from deit_transfer.recipe.loader import check_settings
    from deit_transfer.training.choose_recipe import default_recipe

    name = recipe_name or default_recipe(mode, dataset)
    check_settings(name, overrides={"data.dataset": dataset, **overrides})
