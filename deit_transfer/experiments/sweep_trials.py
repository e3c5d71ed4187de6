"""Run the trials of a sweep one after the other, and record each."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from deit_transfer.analysis.sweep_winner import (
    FINISHED,
    difference,
    find_winner,
    interval_of,
    search_labels,
)
from deit_transfer.data.dataset import ImageSet
from deit_transfer.errors import DivergedError, RecipeError, ResourceError
from deit_transfer.experiments.optuna_study import OptunaTrial, Pruned, Pruner, Study
from deit_transfer.experiments.preflight import Preflight
from deit_transfer.experiments.train_or_reuse import (
    ValidationOnly,
    epoch_top1,
    train_or_reuse,
    validation_top1,
)
from deit_transfer.recipe.schema import Recipe
from deit_transfer.recipe.search_space import Dimension, Point, describe_point
from deit_transfer.report.number_format import counted, duration
from deit_transfer.report.sweep import sweep_markdown
from deit_transfer.runs.environment import command_line
from deit_transfer.runs.folder import RESULT_FILE, SWEEP_FILE, RunFolder
from deit_transfer.training import build
from deit_transfer.training.callbacks import Callbacks

REPORT_FILE = "sweep.md"
# 81.8 +- 0.2 (83.1 +- 0.1 at 384): a row of Table 7, as the recipes of recipes/ablation state it
TABLE7_TITLE = "Table 7"
TABLE7_FIGURES = re.compile(r"(?P<at_224>[\d.]+)[^(]*\((?P<at_384>[\d.]+)")
By = Literal["grid", "trials", "recipes"]
Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A trial to run; `name` is its recipe, where recipes are compared."""

    trial: int
    settings: Point
    recipe: Recipe
    name: str | None = None

    @property
    def label(self) -> str:
        """The settings that tell it from the others."""
        return self.name if self.name is not None else describe_point(self.settings)


@dataclass(kw_only=True)
class Sweep:
    """A sweep under way: what its trials share, and their rows so far."""

    by: By
    varied: Sequence[str]
    first: Recipe
    ready: Preflight
    val: ImageSet
    folder: RunFolder
    out: Path
    key: str
    labels: Sequence[str]
    callbacks: Callbacks
    rows: list[Row] = field(default_factory=list)


def make_candidates(under_way: Sweep, candidates: Sequence[Candidate]) -> None:
    """Make every trial, in order."""
    for candidate in candidates:
        _announce(under_way, candidate, total=len(candidates))
        under_way.rows.append(_make(under_way, candidate))
        write_sweep(under_way)


def search(
    under_way: Sweep,
    dimensions: Sequence[Dimension],
    recipe_at: Callable[[Point], Recipe],
    *,
    trials: int,
    pruner: Pruner,
) -> None:
    """Make the trials that Optuna asks for, first those that an earlier call left unfinished."""
    epochs = build.durations(under_way.first, num_images=len(under_way.ready.splits.train)).epochs
    study = Study(
        under_way.folder.path,
        dimensions,
        pruner=pruner,
        epochs=epochs,
        seed=under_way.first.run.seed,
    )
    under_way.rows += [{**row, "reused": True} for row in study.ended()]
    if under_way.rows:
        under_way.callbacks.note(f"{counted(len(under_way.rows), 'trial')} of an earlier call kept")
    for ask in _asks(study, trials):
        row = _answer(under_way, ask, recipe_at, total=trials)
        ask.tell(row)
        under_way.rows.append(row)
        write_sweep(under_way)
    under_way.rows.sort(key=lambda row: row["trial"])


def _asks(study: Study, trials: int) -> Iterator[OptunaTrial]:
    yield from study.cut_off()
    while study.num_trials < trials:
        yield study.ask()


def _answer(
    under_way: Sweep, ask: OptunaTrial, recipe_at: Callable[[Point], Recipe], *, total: int
) -> Row:
    try:
        recipe = recipe_at(ask.settings)
    except RecipeError as error:
        # single values were checked; only together can they still contradict each other
        row = _row(ask.number, ask.settings, None, None)
        return row | {"state": "refused", "reason": "; ".join(error.faults)}
    candidate = Candidate(trial=ask.number, settings=ask.settings, recipe=recipe)
    _announce(under_way, candidate, total=total)
    row = _make(under_way, candidate, on_epoch=ask.check)
    if row["reused"]:
        for record in RunFolder(under_way.out / row["run"]).metrics():
            if (top1 := epoch_top1(record)) is not None:
                ask.report(record["epoch"], top1)
    return row


def _announce(under_way: Sweep, candidate: Candidate, *, total: int) -> None:
    took = [row["minutes"] for row in under_way.rows if row["minutes"] and not row["reused"]]
    left = total - len(under_way.rows)
    estimate = ""
    if took:
        estimate = f"; about {duration(60 * left * sum(took) / len(took))} left for {left}"
    under_way.callbacks.note(f"\ntrial {candidate.trial} of {total}: {candidate.label}{estimate}")


def _make(
    under_way: Sweep,
    candidate: Candidate,
    *,
    on_epoch: Callable[[int, int, float], None] | None = None,
) -> Row:
    """Train one trial, and return its row; what ends a trial does not end the sweep."""
    ready, recipe = under_way.ready, candidate.recipe
    callbacks = ValidationOnly(
        under_way.callbacks, num_images=len(under_way.val), on_epoch=on_epoch
    )
    row = _row(candidate.trial, candidate.settings, candidate.name, recipe)
    folder = under_way.folder.path / f"trial-{candidate.trial:03d}"
    try:
        trained = train_or_reuse(
            recipe,
            ready.start_of(recipe),
            ready.splits,
            out=under_way.out,
            name=str(folder.relative_to(under_way.out)),
            callbacks=callbacks,
        )
    except (Pruned, DivergedError, ResourceError) as error:
        states = {Pruned: "pruned", DivergedError: "diverged"}
        under_way.callbacks.note(f"trial {candidate.trial}: {error.message}")
        return (
            row
            | _unfinished(RunFolder(folder), under_way.out)
            | {
                "state": states.get(type(error), "failed"),
                "reason": error.message,
            }
        )
    return row | {
        "state": FINISHED,
        "val_top1": validation_top1(trained),
        "epoch": trained.result["selected_epoch"],
        "epochs": trained.result["epochs"],
        "minutes": trained.result["seconds"] / 60,
        "run": str(trained.folder.path.relative_to(under_way.out)),
        "reused": trained.reused,
    }


def _row(trial: int, settings: Point, name: str | None, recipe: Recipe | None) -> Row:
    row: Row = {
        "trial": trial,
        "settings": dict(settings),
        "recipe": name,
        "state": "",
        "val_top1": None,
        "epoch": None,
        "epochs": None,
        "minutes": None,
        "run": None,
        "reused": False,
        "reason": "",
    }
    if name is not None and recipe is not None:
        row |= {"mode": recipe.mode, "paper": paper_of(recipe)}
    return row


def _unfinished(folder: RunFolder, out: Path) -> Row:
    """Return how far a trial came that did not end."""
    records = folder.metrics()
    if not records:
        return {"run": str(folder.path.relative_to(out)) if folder.is_run else None}
    figures = [top1 for record in records if (top1 := epoch_top1(record)) is not None]
    return {
        "run": str(folder.path.relative_to(out)),
        "val_top1": max(figures, default=None),
        "epoch": records[-1]["epoch"],
        "epochs": records[-1]["epochs"],
        "minutes": records[-1]["seconds"] / 60,
    }


def paper_of(recipe: Recipe) -> list[float] | None:
    """Return the paper's top-1 at 224 and 384 pixels, of a recipe that is a row of Table 7."""
    figures = TABLE7_FIGURES.match(recipe.evidence.paper)
    if not recipe.title.startswith(TABLE7_TITLE) or figures is None:
        return None
    return [float(figures["at_224"]), float(figures["at_384"])]


def write_sweep(under_way: Sweep) -> dict[str, Any]:
    """Write the sweep as far as it has come, and return it."""
    found = _outcome(under_way)
    under_way.folder.write_json(SWEEP_FILE, found)
    under_way.folder.write_text(REPORT_FILE, sweep_markdown(found, command=command_line()))
    return found


def _outcome(under_way: Sweep) -> dict[str, Any]:
    splits, recipe = under_way.ready.splits, under_way.first
    num_val = len(under_way.val)
    rows = [_placed(row, under_way.out) for row in under_way.rows]
    default = None
    if under_way.by == "recipes" and rows:
        default = rows[0]["recipe"]
        rows = [row | _from_default(row, rows[0], num_val) for row in rows]
    winner = find_winner(rows)
    return {
        "dataset": splits.name,
        "mode": recipe.mode,
        "model": recipe.model.name,
        "pretrained": recipe.model.pretrained,
        "by": under_way.by,
        "varied": list(under_way.varied),
        "default": default,
        "selected_on": "val",
        "trials": rows,
        "winner": _winner(winner, num_val) if winner is not None else None,
        "num_val_images": num_val,
        "num_test_images": len(splits.test),
        "counts": splits.counts,
        "data_fingerprint": splits.fingerprint,
        "labels": [*under_way.labels, *search_labels(rows, winner, num_images=num_val)],
        "folder": str(under_way.folder),
        "key": under_way.key,
    }


def _placed(row: Row, out: Path) -> Row:
    """Return a row with its run as seen from here; a journal keeps it relative to `out`."""
    return row | {"run": str(out / row["run"]) if row["run"] is not None else None}


def _from_default(row: Row, default: Row, num_val: int) -> Row:
    """Return how far a recipe is from the default; none where they are of different modes."""
    comparable = row["mode"] == default["mode"] and row is not default
    if not comparable or {row["state"], default["state"]} != {FINISHED}:
        return {"delta": None, "delta_ci95": None}
    interval = difference(row["val_top1"], default["val_top1"], n=num_val)
    return {"delta": row["val_top1"] - default["val_top1"], "delta_ci95": list(interval)}


def _winner(row: Mapping[str, Any], num_val: int) -> Row:
    """Return the winner with its test figure; those of the others are never read."""
    result = RunFolder(Path(row["run"])).read_json(RESULT_FILE)
    return {
        "trial": row["trial"],
        "settings": row["settings"],
        "recipe": row["recipe"],
        "run": row["run"],
        "val_top1": row["val_top1"],
        "val_top1_ci95": list(interval_of(row["val_top1"], num_val)),
        "test_top1": result["top1"],
        "test_top1_ci95": result["top1_ci95"],
    }
