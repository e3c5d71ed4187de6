"""The catalog of datasets: find, download and load one by name, folder or address.

The catalog is what lies in `adapters/`: every module there names its adapters in `ADAPTERS`, and
in `OPENERS` what it reads by address; no list is kept beside it.
"""

import importlib
import os
import pkgutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from deit_transfer.data import adapters
from deit_transfer.data.adapters.folder import FolderAdapter
from deit_transfer.data.dataset import (
    Configurable,
    Dataset,
    DatasetAdapter,
    DatasetInfo,
    DatasetOpener,
    Options,
    Progress,
)
from deit_transfer.data.fetch.cache import user_cache
from deit_transfer.data.pipeline.decode import FULL_RANGE, GRAY_SAMPLE, gray_range
from deit_transfer.errors import DataError, UsageError, did_you_mean

_MOST_LOOKED_AT = 200  # folders, when the one that was named holds no dataset


def list_datasets() -> list[DatasetInfo]:
    """Return the facts of every dataset known by name, then of every kind of address."""
    named = [adapter.info for adapter in _adapters().values()]
    return [*named, *(opener.info for opener in _openers())]


def load_dataset(
    name: str,
    *,
    data_dir: Path | None = None,
    for_evaluation: bool = False,
    options: Options | None = None,
    progress: Progress | None = None,
) -> Dataset:
    """Load a dataset by its name, its address or its folder.

    Args:
        name: A name of the catalog; an address (hf:OWNER/NAME, wds:SHARDS, a table's path);
            anything else is taken as a folder's path. Write "./digits" for a folder that is
            called like a dataset.
        data_dir: Where downloaded datasets lie; see `default_data_dir`.
        for_evaluation: Only score: a folder of class folders is all test, and needs no train/.
        options: Choices that only some datasets offer.
        progress: Called while a dataset is being downloaded, unpacked or listed.

    Raises:
        UsageError: The name is unknown and no folder either, or it does not offer the options.
        DataError: The dataset is missing and cannot be fetched, or is at fault.
    """
    dataset = _load(
        name,
        data_dir=data_dir,
        for_evaluation=for_evaluation,
        options=options or Options(),
        progress=progress,
    )
    return _decoded_alike(dataset)


def _decoded_alike(dataset: Dataset) -> Dataset:
    """Let every split be decoded in the dataset's one way, whatever it is read from."""
    reference = dataset.splits.get("train", next(iter(dataset.splits.values())))
    white = gray_range(reference) if len(reference) else FULL_RANGE
    notes = [*dataset.notes]
    if white != FULL_RANGE:
        notes.append(
            f"gray images of 16 bits use {white.bit_length()}: {white} is shown as white "
            f"({GRAY_SAMPLE} images looked at)"
        )
    splits = {
        split: images.shown(apply_exif=dataset.info.apply_exif, gray_white=white)
        for split, images in dataset.splits.items()
    }
    return replace(dataset, splits=splits, notes=notes)


def _load(
    name: str,
    *,
    data_dir: Path | None,
    for_evaluation: bool,
    options: Options,
    progress: Progress | None,
) -> Dataset:
    adapter = _configured(name, _adapters().get(name), options)
    if adapter is None:
        for opener in _openers():
            if opener.accepts(name):
                return opener.open(name, for_evaluation=for_evaluation, progress=progress)
        return _load_folder(name, for_evaluation=for_evaluation)
    if isinstance(adapter, FolderAdapter):
        if data_dir is None:
            raise UsageError(
                "'folder' stands for any folder of images, and none was named",
                hint="Give the path of a folder of class folders instead of the word folder",
            )
        return _load_folder(str(data_dir), for_evaluation=for_evaluation)
    root = adapter.find(data_dir if data_dir is not None else default_data_dir())
    if root is None and adapter.info.access != "embedded":
        root = _fetch_missing(adapter, data_dir, progress)
    return adapter.load(root)


def check_name(name: str) -> None:
    """Raise what `load_dataset` would where a name is no dataset, no address and no path."""
    is_address = any(opener.accepts(name) for opener in _openers())
    if name not in _adapters() and not is_address and not Path(name).expanduser().exists():
        raise _unknown(name)


def find_dataset(name: str, *, data_dir: Path | None = None) -> Path | None:
    """Return where a dataset of the catalog lies on this machine, or None."""
    if name in (opener.info.name for opener in _openers()):
        return None
    adapter = _known(name)
    if isinstance(adapter, FolderAdapter):
        return None
    return adapter.find(data_dir if data_dir is not None else default_data_dir())


def published_name(name: str) -> str:
    """Return the catalog's name of what an address is a known copy of; any other name as it is.

    `hf:uoft-cs/cifar10` is `cifar10`. Nothing is read or fetched.
    """
    opener = next((opener for opener in _openers() if opener.accepts(name)), None)
    return (opener.published_name(name) if opener else None) or name


def offers_options(name: str) -> bool:
    """Return whether a dataset has choices, such as its taxonomic rank; see `Options`."""
    return isinstance(_adapters().get(name), Configurable)


def prepare_dataset(
    name: str, *, data_dir: Path | None = None, progress: Progress | None = None
) -> Path | None:
    """Fetch what is missing of a dataset; returns where it lies, None when it is embedded.

    Raises:
        DataError: It cannot be fetched; for what must be placed by hand, the hint has the steps.
    """
    adapter = _known(name)
    if adapter.info.access == "embedded":
        return None
    place = data_dir if data_dir is not None else default_data_dir()
    if adapter.info.access == "by hand" and (root := adapter.find(place)):
        return root
    if data_dir is not None:
        _look_nearby(adapter, data_dir)
    return adapter.download(place, progress=progress)


def default_data_dir() -> Path:
    """Return $DEIT_TRANSFER_DATA, or deit-transfer/data in the user's cache folder."""
    if given := os.environ.get("DEIT_TRANSFER_DATA"):
        return Path(given).expanduser()
    return user_cache() / "data"


def _configured(
    name: str, adapter: DatasetAdapter | None, options: Options
) -> DatasetAdapter | None:
    if options == Options():
        return adapter
    if not isinstance(adapter, Configurable):
        raise UsageError(
            f"{name} has one kind of class and one order: neither --rank (data.rank) nor "
            "data.class_order applies to it",
            hint="Leave both out. They are for inat2018 and inat2019",
        )
    return adapter.configured(options)


def _fetch_missing(
    adapter: DatasetAdapter, data_dir: Path | None, progress: Progress | None
) -> Path:
    """Download a dataset that is not where it was looked for, unless the user should first know."""
    info, place = adapter.info, data_dir if data_dir is not None else default_data_dir()
    if data_dir is not None:
        if not data_dir.is_dir():
            raise DataError(
                f"{info.name} was not found: there is no folder {data_dir}",
                hint="Check --data-dir, or leave it out to download into the default folder",
            )
        _look_nearby(adapter, data_dir)
    if info.access == "on request":
        size = f"{(info.download_mb or 0) / 1000:.0f} GB"
        raise DataError(
            f"{info.name} was not found in {place}",
            hint=f"Name its folder with --data-dir FOLDER, or fetch {size} with: "
            f"deit-transfer data prepare {info.name} --data-dir {place}",
        )
    return adapter.download(place, progress=progress)


def _look_nearby(adapter: DatasetAdapter, data_dir: Path) -> None:
    """Point at the dataset one folder up or up to two folders down, where it usually is."""
    if not data_dir.is_dir() or adapter.find(data_dir) is not None:
        return
    inside = _folders(data_dir)
    further = [folder for child in inside for folder in _folders(child)]
    for folder in (data_dir.parent, *inside, *further[:_MOST_LOOKED_AT]):
        if (root := adapter.find(folder)) is not None:
            raise DataError(
                f"{adapter.info.name} does not lie in {data_dir}, but in {root}",
                hint=f"Name that folder: --data-dir {root}",
            )
    _point_to_address(data_dir, {"parquet": "hf:"})


def _point_to_address(folder: Path, prefixes: Mapping[str, str]) -> None:
    """Raise where a folder holds its images inside files that an address would name."""
    for kind, prefix in prefixes.items():
        if any(folder.glob(f"*.{kind}")) or any(folder.glob(f"*/*.{kind}")):
            raise DataError(
                f"{folder} holds {kind} files, not images or a dataset in its own format",
                hint=f"Name them by their address: {prefix}{folder}",
            )


def _point_to_dataset(folder: Path) -> None:
    """Raise where a folder without class folders is a part of a published dataset."""
    for name, adapter in _adapters().items():
        above = folder.absolute().parent
        if not isinstance(adapter, FolderAdapter) and adapter.find(above) == above:
            raise DataError(
                f"{folder} is a part of {adapter.info.title}, not a folder of class folders",
                hint=f"Name the dataset instead: {name} --data-dir {above}",
            )


def _folders(folder: Path) -> list[Path]:
    try:
        with os.scandir(folder) as entries:  # knows folders from files without asking each
            found = [Path(entry.path) for entry in entries if entry.is_dir()]
    except OSError:
        return []
    return sorted(found)[:_MOST_LOOKED_AT]


def _load_folder(path: str, *, for_evaluation: bool) -> Dataset:
    folder = Path(path).expanduser()
    if not folder.exists():
        raise _unknown(path)
    if not folder.is_dir():
        raise DataError(
            f"{folder} is a file, not a folder of images",
            hint="Unpack archives first, then name the folder that holds the class folders",
        )
    for name, adapter in _adapters().items():
        if not isinstance(adapter, FolderAdapter) and adapter.find(folder) is not None:
            raise DataError(
                f"{folder} holds {adapter.info.title} in its own format, not a folder of images",
                hint=f"Name the dataset instead: {name} --data-dir {folder}",
            )
    try:
        return FolderAdapter(for_evaluation=for_evaluation).load(folder)
    except DataError:
        _point_to_address(folder, {"parquet": "hf:", "tar": "wds:"})
        _point_to_dataset(folder)
        raise


def _known(name: str) -> DatasetAdapter:
    adapter = _adapters().get(name)
    if adapter is None:
        raise _unknown(name)
    return adapter


def _unknown(name: str) -> UsageError | DataError:
    if os.sep in name or name.startswith((".", "~")):
        return DataError(
            f"there is no folder {name}",
            hint="Check its path; `deit-transfer data list` shows the datasets known by name",
        )
    choices = list(_adapters())
    here = [folder.name for folder in _folders(Path()) if not folder.name.startswith(".")]
    guess = did_you_mean(name.lower(), [*choices, *here])
    return UsageError(
        f"no dataset and no folder is called {name!r}. {guess}".rstrip(),
        hint=f"Datasets: {', '.join(choices)}, or the path of a folder of class folders",
    )


def _adapters() -> dict[str, DatasetAdapter]:
    """Gather the adapters of every module in `adapters/`, by name."""
    found: dict[str, DatasetAdapter] = {}
    for module in pkgutil.iter_modules(adapters.__path__, f"{adapters.__name__}."):
        for adapter in importlib.import_module(module.name).ADAPTERS:
            found[adapter.info.name] = adapter
    return dict(sorted(found.items()))


def _openers() -> list[DatasetOpener]:
    """Gather what the modules in `adapters/` read by address."""
    found: list[DatasetOpener] = []
    for module in pkgutil.iter_modules(adapters.__path__, f"{adapters.__name__}."):
        found += getattr(importlib.import_module(module.name), "OPENERS", ())
    return found
