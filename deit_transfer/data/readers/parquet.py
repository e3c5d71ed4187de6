"""Read images from parquet files, as the Hugging Face hub stores its datasets.

Parquet compresses many rows together, so one image cannot be read by itself. The images' own
bytes are therefore copied once into one plain file in the user's cache, where any is read by its
place and decoded by the one decoder; pyarrow's and datasets' own decoding is never used.
"""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deit_transfer.data.dataset import ImageSet, Progress, Strings
from deit_transfer.data.fetch.cache import key_of, user_cache
from deit_transfer.data.fetch.download import locked
from deit_transfer.data.labels import Label, clean_labels, clean_names
from deit_transfer.data.readers.byte_ranges import ByteRanges
from deit_transfer.errors import DataError, ResourceError, UsageError

_BATCH = 256  # rows in memory at a time
_LABEL_NAMES = ("label", "labels", "fine_label")
_IMAGES_FILE = "images.bin"
_INDEX_FILE = "index.npz"


@dataclass(frozen=True, kw_only=True)
class Columns:
    """Which columns hold images and labels, and the class names.

    `class_names` has those of each file, None where its labels are themselves names or have
    none. `other_labels` are label columns that are left out.
    """

    image: str
    label: str
    class_names: Mapping[Path, tuple[str, ...] | None]
    other_labels: tuple[str, ...] = ()

    @property
    def shared_names(self) -> tuple[str, ...] | None:
        """The class names, if all files have the same; else labels are joined by name."""
        first, *others = self.class_names.values()
        return first if all(names == first for names in others) else None

    @property
    def differ(self) -> bool:
        """Whether files name their classes differently."""
        return len(set(self.class_names.values())) > 1


@dataclass(frozen=True, kw_only=True)
class ParquetRows:
    """The unpacked rows of some files: byte range of each image, and its label as stored.

    Shapes: starts, lengths (N,) int64; `labels` are N texts or whole numbers, None if missing.
    """

    path: Path
    starts: NDArray[np.int64]
    lengths: NDArray[np.int64]
    labels: list[Label]

    def __len__(self) -> int:
        return len(self.starts)


def is_table_of_images(path: Path) -> bool:
    """Return whether a parquet file holds images, rather than paths of images."""
    return _image_column(_schema(path)) is not None


def find_columns(files: Sequence[Path]) -> Columns:
    """Return the columns to read, which must be the same in all files.

    Raises:
        DataError: There is no image or no label column, several of either, or they differ.
    """
    schemas = [_schema(path) for path in files]
    for path, schema in zip(files, schemas, strict=True):
        if schema.names != schemas[0].names:
            raise DataError(
                f"{path} has the columns {', '.join(schema.names)}, and {files[0]} has "
                f"{', '.join(schemas[0].names)}",
                hint="Files of one dataset have the same columns: name the folder of one of them",
            )
    schema, features = schemas[0], _features(schemas[0])
    image = _image_column(schema)
    labels = [name for name in schema.names if features.get(name, {}).get("_type") == "ClassLabel"]
    named = [name for name in _LABEL_NAMES if name in schema.names]
    label = named[0] if named else labels[0] if len(labels) == 1 else None
    if image is None or label is None:
        missing = "image" if image is None else "label"
        raise DataError(
            f"{files[0]} has no {missing} column that can be told from others; its columns are "
            f"{', '.join(schema.names)}",
            hint="Images are bytes or struct{bytes, path}; the labels' column is called "
            f"{' or '.join(_LABEL_NAMES)}",
        )
    named_by = {
        path: _features(one).get(label, {}).get("names")
        for path, one in zip(files, schemas, strict=True)
    }
    return Columns(
        image=image,
        label=label,
        class_names={
            path: clean_names(names, source=f"column {label} of {path}") if names else None
            for path, names in named_by.items()
        },
        other_labels=tuple(name for name in labels if name != label),
    )


def unpack(
    files: Sequence[Path], columns: Columns, *, progress: Progress | None = None
) -> ParquetRows:
    """Copy the images' bytes of parquet files into one file of the cache, unless they are there.

    Args:
        files: The files of one split, in order.
        columns: What to read of them.
        progress: Called with the files' bytes done, judged by the rows, and in total.

    Raises:
        DataError: A file is damaged, or a row has no image in it.
        ResourceError: The cache has no room.
    """
    key = key_of(
        files, "parquet-2", columns.image, columns.label, "by name" if columns.differ else ""
    )
    parent = user_cache() / "unpacked"
    folder = parent / key
    with locked(parent, key):
        if not (folder / _INDEX_FILE).is_file():
            _check_room(parent, files)
            temporary = Path(tempfile.mkdtemp(prefix=f".{key}-", dir=parent))
            try:
                _copy(files, columns, temporary, progress)
                shutil.rmtree(folder, ignore_errors=True)
                os.replace(temporary, folder)
            except OSError as error:
                raise ResourceError(
                    f"cannot write {folder}: {error.strerror or error}",
                    hint="Make room there, or set XDG_CACHE_HOME to a folder with more",
                ) from error
            finally:
                shutil.rmtree(temporary, ignore_errors=True)
    with np.load(folder / _INDEX_FILE, allow_pickle=False) as index:
        return ParquetRows(
            path=folder / _IMAGES_FILE,
            starts=index["starts"],
            lengths=index["lengths"],
            labels=json.loads(str(index["labels"])),
        )


def image_set(
    rows: ParquetRows, labels: NDArray[np.int64], chosen: NDArray[np.int64], *, name: str
) -> ImageSet:
    """Return the chosen rows as images under `labels` (one each); ids count the rows of a split."""
    ids = Strings(f"{name}-{row:06d}" for row in chosen)
    source = ByteRanges(
        files=[rows.path],
        file_of=np.zeros(len(chosen), np.int64),
        starts=rows.starts[chosen],
        lengths=rows.lengths[chosen],
        names=ids,
    )
    return ImageSet(labels=labels, ids=ids, source=source)


def read_columns(path: Path, columns: Sequence[str]) -> dict[str, list[Any]]:
    """Return columns of a small table as lists."""
    table = pyarrow_parquet().read_table(path, columns=list(columns))
    return {name: table.column(name).to_pylist() for name in columns}


def column_names(path: Path) -> list[str]:
    """Return the names of a parquet file's columns."""
    return list(_schema(path).names)


def pyarrow_parquet() -> ModuleType:
    """Return pyarrow's parquet module.

    Raises:
        UsageError: It is not installed.
    """
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise UsageError(
            "reading parquet files needs pyarrow, which is not installed",
            hint="pip install 'deit-transfer[parquet]', or pip install pyarrow",
        ) from error
    return pyarrow.parquet


def _schema(path: Path) -> Any:
    parquet = pyarrow_parquet()
    try:
        return parquet.read_schema(path)
    except Exception as error:
        # A damaged file makes Arrow raise several of its own kinds, and OSError.
        raise _damaged(path, error) from error


def _features(schema: Any) -> dict[str, Any]:
    """Return what the hub's metadata says of each column; nothing where there is none."""
    try:
        described = json.loads((schema.metadata or {})[b"huggingface"])
        return dict(described["info"]["features"])
    except (KeyError, ValueError, TypeError):
        return {}


def _image_column(schema: Any) -> str | None:
    """Return the one column of image bytes, plain or in a struct with their path."""
    import pyarrow

    found = []
    for field in schema:
        kind = field.type
        if pyarrow.types.is_struct(kind):
            kind = kind.field("bytes").type if kind.get_field_index("bytes") >= 0 else kind
        if pyarrow.types.is_binary(kind) or pyarrow.types.is_large_binary(kind):
            found.append(field.name)
    preferred = [name for name in ("image", "img") if name in found]
    return preferred[0] if preferred else found[0] if len(found) == 1 else None


def _copy(files: Sequence[Path], columns: Columns, folder: Path, progress: Progress | None) -> None:
    parquet = pyarrow_parquet()
    starts: list[int] = []
    lengths: list[int] = []
    labels: list[Any] = []
    rows = sum(parquet.read_metadata(path).num_rows for path in files)
    size = sum(path.stat().st_size for path in files)
    with (folder / _IMAGES_FILE).open("wb") as out:
        for path in files:
            for images, batch_labels in _batches(path, columns):
                for data in images:
                    if not data:
                        raise DataError(
                            f"row {len(starts)} of the images up to {path} holds no image bytes",
                            hint="Take the dataset's own parquet files: they hold the images",
                        )
                    starts.append(out.tell())
                    lengths.append(len(data))
                    out.write(data)
                source = f"column {columns.label} of {path}, from row {len(labels)},"
                cleaned = clean_labels(batch_labels, source=source)
                labels += _by_name(cleaned, columns, path) if columns.differ else cleaned
                if progress:
                    progress(size * len(starts) // max(rows, 1), size)
        out.flush()
        os.fsync(out.fileno())
    np.savez(
        folder / _INDEX_FILE,
        starts=np.array(starts, np.int64),
        lengths=np.array(lengths, np.int64),
        labels=np.array(json.dumps(labels)),
    )


def _by_name(labels: list[Label], columns: Columns, path: Path) -> list[Label]:
    """Return labels as names, since another file numbers its classes differently."""
    names = columns.class_names[path]
    if names is None:
        return labels
    too_high = [label for label in labels if isinstance(label, int) and label >= len(names)]
    if too_high:
        raise DataError(
            f"{path} holds label {too_high[0]}, but names {len(names)} classes",
            hint="The file contradicts itself. Download it again, or take another copy",
        )
    return [names[label] if isinstance(label, int) else label for label in labels]


def _batches(path: Path, columns: Columns) -> Iterator[tuple[list[bytes | None], list[Any]]]:
    """Yield image bytes and labels, a few rows at a time."""
    import pyarrow

    try:
        file = pyarrow_parquet().ParquetFile(path)
        for batch in file.iter_batches(_BATCH, columns=[columns.image, columns.label]):
            images = batch.column(columns.image)
            if pyarrow.types.is_struct(images.type):
                images = images.field("bytes")
            yield images.to_pylist(), batch.column(columns.label).to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        raise _damaged(path, error) from error


def _check_room(parent: Path, files: Sequence[Path]) -> None:
    needed, free = sum(path.stat().st_size for path in files), shutil.disk_usage(parent).free
    if needed > free:
        raise ResourceError(
            f"{parent} has {free / 1e6:,.0f} MB free, and unpacking needs {needed / 1e6:,.0f}",
            hint="Make room there, or set XDG_CACHE_HOME to a folder with more",
        )


def _damaged(path: Path, error: Exception) -> DataError:
    return DataError(
        f"{path} cannot be read as parquet: {error}",
        hint="It is damaged, cut short, or a Git LFS pointer. Download it again",
    )
