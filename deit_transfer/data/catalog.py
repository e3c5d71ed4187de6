"""Own which datasets there are by name, and finding, fetching and loading one.

The catalogue is what lies in `adapters/`: every module there names its adapters in `ADAPTERS`,
and no list is kept beside it.
"""

import importlib
import os
import pkgutil
from pathlib import Path

from deit_transfer.data import adapters
from deit_transfer.data.adapters.folder import FolderAdapter
from deit_transfer.data.contract import Dataset, DatasetAdapter, DatasetInfo, Progress
from deit_transfer.errors import DataError, UsageError, did_you_mean


def list_datasets() -> list[DatasetInfo]:
    """Return the facts of every dataset known by name, in alphabetical order."""
    return [adapter.info for adapter in _adapters().values()]


def load_dataset(
    name_or_folder: str,
    *,
    data_dir: Path | None = None,
    for_evaluation: bool = False,
    progress: Progress | None = None,
) -> Dataset:
    """Load a dataset of the catalogue, or a folder of images.

    Args:
        name_or_folder: A name of the catalogue; anything else is taken as a folder's path. Write
            "./digits" for a folder that is called like a dataset.
        data_dir: Where downloaded datasets lie; see `default_data_dir`.
        for_evaluation: Only score: a folder of class folders is all test, and needs no train/.
        progress: Called while a dataset that may be fetched freely is being downloaded.

    Raises:
        UsageError: The name is unknown and no folder either.
        DataError: The dataset is missing and cannot be fetched, or is at fault.
    """
    adapter = _adapters().get(name_or_folder)
    if adapter is None:
        return _load_folder(name_or_folder, for_evaluation=for_evaluation)
    if isinstance(adapter, FolderAdapter):
        if data_dir is None:
            raise UsageError(
                "'folder' stands for any folder of images, and none was named",
                hint="Give the path of a folder of class folders instead of the word folder.",
            )
        return _load_folder(str(data_dir), for_evaluation=for_evaluation)
    place = data_dir if data_dir is not None else default_data_dir()
    root = adapter.find(place)
    if root is None and adapter.info.access != "embedded":
        if data_dir is not None and not data_dir.is_dir():
            raise DataError(
                f"{adapter.info.name} was not found: there is no folder {data_dir}",
                hint="Check --data-dir, or leave it out to download into the default folder.",
            )
        root = adapter.download(place, progress=progress)
    return adapter.load(root)


def find_dataset(name: str, *, data_dir: Path | None = None) -> Path | None:
    """Return where a dataset of the catalogue lies on this machine, or None."""
    adapter = _known(name)
    if isinstance(adapter, FolderAdapter):
        return None
    return adapter.find(data_dir if data_dir is not None else default_data_dir())


def prepare_dataset(
    name: str, *, data_dir: Path | None = None, progress: Progress | None = None
) -> Path | None:
    """Fetch a dataset unless it is there already; returns where it lies, None when embedded."""
    adapter = _known(name)
    if adapter.info.access == "embedded":
        return None
    place = data_dir if data_dir is not None else default_data_dir()
    return adapter.find(place) or adapter.download(place, progress=progress)


def default_data_dir() -> Path:
    """Return $DEIT_TRANSFER_DATA, or deit-transfer/data in the user's cache folder."""
    if given := os.environ.get("DEIT_TRANSFER_DATA"):
        return Path(given).expanduser()
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(cache).expanduser() / "deit-transfer" / "data"


def _load_folder(path: str, *, for_evaluation: bool) -> Dataset:
    folder = Path(path).expanduser()
    if not folder.exists():
        raise _unknown(path)
    if not folder.is_dir():
        raise DataError(
            f"{folder} is a file, not a folder of images",
            hint="Unpack archives first, then name the folder that holds the class folders.",
        )
    for name, adapter in _adapters().items():
        if not isinstance(adapter, FolderAdapter) and adapter.find(folder) is not None:
            raise DataError(
                f"{folder} holds {adapter.info.title} in its own format, not a folder of images",
                hint=f"Name the dataset instead: {name} --data-dir {folder}",
            )
    return FolderAdapter(for_evaluation=for_evaluation).load(folder)


def _known(name: str) -> DatasetAdapter:
    adapter = _adapters().get(name)
    if adapter is None:
        raise _unknown(name)
    return adapter


def _unknown(name: str) -> UsageError | DataError:
    if os.sep in name or name.startswith((".", "~")):
        return DataError(
            f"there is no folder {name}",
            hint="Check its path; `deit-transfer data list` shows the datasets known by name.",
        )
    choices = list(_adapters())
    guess = did_you_mean(name, choices)
    return UsageError(
        f"no dataset and no folder is called {name!r}. {guess}".rstrip(),
        hint=f"Datasets: {', '.join(choices)}, or the path of a folder of class folders.",
    )


def _adapters() -> dict[str, DatasetAdapter]:
    """Gather the adapters of every module in `adapters/`, by name."""
    found: dict[str, DatasetAdapter] = {}
    for module in pkgutil.iter_modules(adapters.__path__, f"{adapters.__name__}."):
        for adapter in importlib.import_module(module.name).ADAPTERS:
            found[adapter.info.name] = adapter
    return dict(sorted(found.items()))
