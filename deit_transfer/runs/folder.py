"""The run folder: its name, its lock, and all its files except the checkpoints."""

import csv
import json
import os
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from deit_transfer.errors import DataError, ResourceError, RunLockedError, UsageError
from deit_transfer.runs.checksums import (
    CHECKSUMS_FILE,
    damaged,
    read_checked,
    read_checked_json,
    write_checked,
)

RECIPE_FILE = "recipe.toml"
CLASSES_FILE = "classes.json"
DATA_FILE = "data.json"
KEY_FILE = "run_key.json"
ENVIRONMENT_FILE = "environment.json"
RESULT_FILE = "result.json"
STATUS_FILE = "status.json"
METRICS_FILE = "metrics.jsonl"
LOCK_FILE = "run.lock"
PREDICTIONS_FILE = "predictions-test.npz"
EPOCHS_FILE = "epochs.json"
SWEEP_FILE = "sweep.json"
DATASETS_FILE = "datasets.json"
COMPARISON_FILE = "comparison.json"


class RunFolder:
    """The files of one run; hold `lock()` while writing."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.checkpoints = path / "checkpoints"

    def __str__(self) -> str:
        return str(self.path)

    @property
    def is_run(self) -> bool:
        """Whether this is a run's folder; the recipe is the last of its first files."""
        return (self.path / RECIPE_FILE).is_file()

    @property
    def was_cut_off_at_birth(self) -> bool:
        """Whether this is the folder of a run that was killed while it was being created."""
        first_files = {KEY_FILE, ENVIRONMENT_FILE, CHECKSUMS_FILE}
        return self.path.is_dir() and all(
            path.name in first_files or path.name.endswith(".tmp") for path in self.path.iterdir()
        )

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Keep every other process out of the folder; raises RunLockedError naming the owner."""
        lock = FileLock(self.path / LOCK_FILE, timeout=0)
        try:
            lock.acquire()
        except Timeout:
            owner = self.read_json(STATUS_FILE)
            raise RunLockedError(
                f"{self.path} is in use by process {owner.get('pid', '?')} "
                f"on {owner.get('host', 'this machine')}",
                hint="Wait for it to end, or give the new run another --name",
            ) from None
        except OSError as error:
            raise _unwritable(self.path, error) from None
        try:
            yield
        finally:
            lock.release()

    def write_text(self, name: str, text: str) -> None:
        """Write a file whole or not at all; raises ResourceError where it cannot be written."""
        write_checked(self.path / name, text)

    def write_json(self, name: str, value: Mapping[str, Any]) -> None:
        self.write_text(name, json.dumps(value, indent=2) + "\n")

    def read_json(self, name: str) -> dict[str, Any]:
        """Return a JSON file of the folder, empty where there is none; DataError if damaged."""
        return read_checked_json(self.path / name)

    def class_names(self) -> tuple[str, ...]:
        """Return the names of the classes in label order; empty where none were written down."""
        return tuple(self.read_json(CLASSES_FILE).get("class_names") or ())

    def set_status(self, state: str, detail: str = "") -> None:
        """Record running, done, stopped or failed, with the process that says so."""
        self.write_json(
            STATUS_FILE,
            {
                "state": state,
                "detail": detail,
                "pid": os.getpid(),
                "host": socket.gethostname(),
                "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            },
        )

    def status(self) -> dict[str, Any]:
        """Return the status; `killed` in place of `running` where its process is gone."""
        status = self.read_json(STATUS_FILE)
        here = status.get("host") == socket.gethostname()
        if status.get("state") == "running" and here and not _is_alive(status["pid"]):
            status |= {"state": "killed", "detail": "--resume goes on from its last checkpoint"}
        return status

    def log(self, line: str) -> None:
        """Add a line, with the time, to the run's log."""
        with (self.path / "train.log").open("a", encoding="utf-8") as stream:
            stream.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {line}\n")

    def metrics(self) -> list[dict[str, Any]]:
        """Return one record per finished epoch."""
        path = self.path / METRICS_FILE
        try:
            return [json.loads(line) for line in (read_checked(path) or "").splitlines()]
        except (ValueError, RecursionError):
            raise damaged(path) from None

    def write_metrics(self, records: list[dict[str, Any]]) -> None:
        """Write the epoch records as JSON lines and, flattened, as CSV."""
        self.write_text(METRICS_FILE, "".join(json.dumps(record) + "\n" for record in records))
        rows = [_flat(record) for record in records]
        if not rows:
            return
        lines: list[str] = []
        columns = list(dict.fromkeys(key for row in rows for key in row))
        writer = csv.DictWriter(_LineSink(lines), fieldnames=columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        self.write_text("metrics.csv", "".join(lines))


class _LineSink:
    def __init__(self, lines: list[str]) -> None:
        self.write = lines.append


def create_run_folder(out: Path, name: str) -> RunFolder:
    """Make the folder `out/name`, which must be new.

    Raises:
        UsageError: There is a run of this name already.
        ResourceError: The folder cannot be written.
    """
    path = out / name
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir()
    except FileExistsError:
        raise taken(RunFolder(path)) from None
    except OSError as error:
        raise _unwritable(path, error) from None
    return RunFolder(path)


def taken(folder: RunFolder) -> UsageError:
    """Return the error that a name is in use already."""
    if folder.is_run:
        return UsageError(
            f"there is a run in {folder} already",
            hint="Go on with it by --resume, or give the new run another --name",
        )
    return UsageError(
        f"{folder} exists already, and is no run", hint="Give the new run another --name"
    )


def refuse_taken_name(out: Path, name: str | None, *, what: str) -> None:
    """Raise UsageError where the folder that is asked for, of a `what`, is there already."""
    if name is not None and (out / name).exists():
        raise UsageError(f"{out / name} exists already", hint=f"Give the new {what} another --name")


def create_named_folder(out: Path, name: str | None, *, automatic: str) -> RunFolder:
    """Make `out/name`, which must be new; without a name, the next free one of `out/automatic`."""
    if name is None:
        return create_numbered_folder(out, automatic)
    return create_run_folder(out, name)


def folder_of_runs(
    found: Mapping[str, Any], out: Path, name: str | None, *, automatic: str, file: str
) -> RunFolder:
    """Return the folder that holds a result of the same runs already, or make one.

    Args:
        found: The result; whatever in it stands under "run" is a run's folder.
        out: Folder that holds the runs.
        name: A folder to make below `out`; None looks for one of the same runs.
        automatic: What it is called below `out` where it is new and has no name.
        file: What a result is stored as in its folder.
    """
    if name is None:
        for path in sorted((out / automatic).parent.glob(f"*/{file}")):
            folder = RunFolder(path.parent)
            with suppress(DataError):  # a damaged one is not written into
                if _runs_in(folder.read_json(file)) == _runs_in(found):
                    return folder
    return create_named_folder(out, name, automatic=automatic)


def _runs_in(found: Any) -> list[str]:
    """Return the runs that a result names, sorted."""
    if isinstance(found, Mapping):
        own = [found["run"]] if isinstance(found.get("run"), str) else []
        return sorted(own + _runs_in(list(found.values())))
    if isinstance(found, list | tuple):
        return sorted(run for value in found for run in _runs_in(value))
    return []


def create_numbered_folder(out: Path, name: str) -> RunFolder:
    """Make `out/name`, or the first free of `out/name-2`, `out/name-3`, ..., safe under races."""
    number = 1
    while True:
        try:
            return create_run_folder(out, name if number == 1 else f"{name}-{number}")
        except UsageError:
            number += 1


def open_run(path: Path | str) -> RunFolder:
    """Return an existing run; raises DataError where there is none, or its recipe is damaged."""
    folder = RunFolder(Path(path))
    if not folder.path.exists():
        raise DataError(
            f"there is no run in {path}: the folder does not exist",
            hint="deit-transfer runs list shows the runs below a folder",
        )
    if not folder.is_run:
        raise DataError(
            f"{path} is not a run folder: it has no {RECIPE_FILE}",
            hint="deit-transfer runs list shows the runs below a folder",
        )
    read_checked(folder.path / RECIPE_FILE)
    return folder


def find_runs(out: Path) -> list[RunFolder]:
    """Return every run below a folder, oldest first."""
    found = [RunFolder(path.parent) for path in out.rglob(RECIPE_FILE)]
    return sorted(found, key=lambda run: (run.path / RECIPE_FILE).stat().st_mtime)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's
        return True
    return True


def _unwritable(path: Path, error: OSError) -> ResourceError:
    return ResourceError(
        f"cannot write to {path}: {error.strerror}",
        hint="Choose a folder you can write to with --out FOLDER",
    )


def _flat(record: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in record.items():
        if isinstance(value, Mapping):
            flat.update(_flat(value, f"{prefix}{key}_"))
        else:
            flat[f"{prefix}{key}"] = value
    return flat
