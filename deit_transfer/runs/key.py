"""The run key: a hash of the settings, data and weights that decide a result."""

import hashlib
import json
from contextlib import suppress
from pathlib import Path

from deit_transfer.errors import DataError
from deit_transfer.models.pretrained import PretrainedWeights, weights_path
from deit_transfer.recipe.schema import Recipe
from deit_transfer.runs.folder import KEY_FILE, RESULT_FILE, RunFolder, find_runs

DEFAULTS_VERSION = 2  # of the recipe schema's defaults; a test holds them
# where a run is computed may change its last bits, never what is computed
PLACE_SETTINGS = {
    "data.allow_bad",
    "data.data_dir",
    "data.decode_cache_mb",
    "run.device",
    "run.workers",
    "run.eval_batch_size",
    "run.save_every_minutes",
    "run.attention",
    "run.compile",
    "run.graph",
    "run.precision",
    "distill.cache",
}


def run_key(recipe: Recipe, data_fingerprint: str, start: PretrainedWeights) -> str:
    """Return what names a result: settings that decide it, the data, and all weights it needs.

    Settings left at their defaults are not in it, so that earlier runs are still found when the
    program learns a new setting. A default that changes must change DEFAULTS_VERSION with it.
    """
    hidden = {"title", "evidence", "sources"}
    values = recipe.model_dump(mode="json", exclude=hidden, exclude_defaults=True)
    for location in PLACE_SETTINGS:
        section, _, name = location.partition(".")
        values.get(section, {}).pop(name, None)
    # the fingerprint and the digests name them better than a path does
    values.get("data", {}).pop("dataset", None)
    values.get("model", {}).pop("pretrained", None)
    if recipe.distill.teacher is not None:
        values["distill"]["teacher"] = _teacher_digest(recipe.distill.teacher)
    values = {section: settings for section, settings in values.items() if settings}
    described = json.dumps(
        [DEFAULTS_VERSION, values, data_fingerprint, _digest(start)], sort_keys=True
    )
    return hashlib.sha256(described.encode()).hexdigest()


def find_by_key(out: Path, key: str, *, finished: bool) -> RunFolder | None:
    """Return the newest run below a folder that has this key and has, or has not, ended.

    A damaged run is passed over: it is neither gone on with nor reused.
    """
    for folder in reversed(find_runs(out) if out.is_dir() else []):
        with suppress(DataError):
            same = folder.read_json(KEY_FILE).get("key") == key
            if same and bool(folder.read_json(RESULT_FILE)) == finished:
                return folder
    return None


def _digest(start: PretrainedWeights) -> str:
    """Return what names the weights themselves, wherever they were read from."""
    digest = hashlib.sha256()
    for name, tensor in sorted(start.state_dict.items()):
        digest.update(name.encode())
        digest.update(tensor.contiguous().view(-1).numpy().tobytes())
    return digest.hexdigest()


def _teacher_digest(teacher: str) -> str:
    """Return what names a teacher's weights; a network given by name has its published ones."""
    weights = weights_path(Path(teacher))
    if not weights.is_file():
        return teacher
    with weights.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
