"""Write a self-contained HTML report about a run, or a comparison with all its runs."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from deit_transfer.data.dataset import Progress
from deit_transfer.errors import DataError, DeitTransferError, UsageError
from deit_transfer.experiments.epochs import REPORT_FILE as EPOCHS_PAGE
from deit_transfer.experiments.outputs import FIGURE_FILE
from deit_transfer.experiments.sweep_trials import REPORT_FILE as SWEEP_PAGE
from deit_transfer.files import check_replaceable, write_text_atomic
from deit_transfer.html_report.mistakes import Pictures, read_page_predictions
from deit_transfer.html_report.page_values import (
    ArmRow,
    ComparisonPage,
    DatasetAnswer,
    DatasetsPage,
    Fact,
    Figure,
    Table,
)
from deit_transfer.html_report.render import comparison_html, datasets_html, is_report, run_html
from deit_transfer.html_report.run_page import run_page
from deit_transfer.html_report.svg_charts import Chart, Curve, line_chart
from deit_transfer.html_report.thumbnails import data_uri
from deit_transfer.recipe.loader import load_recipe
from deit_transfer.recipe.schema import Recipe
from deit_transfer.report.comparison import difference_line, footnotes, top1_lines, verdict
from deit_transfer.report.datasets_comparison import row_cell, row_title
from deit_transfer.report.label_efficiency import interval_cell, share_text
from deit_transfer.report.number_format import (
    compact,
    counts_text,
    duration,
    grouped,
    percent,
    tells_top5,
)
from deit_transfer.runs.folder import (
    COMPARISON_FILE,
    DATASETS_FILE,
    EPOCHS_FILE,
    RECIPE_FILE,
    RESULT_FILE,
    SWEEP_FILE,
    RunFolder,
    find_runs,
)
from deit_transfer.training.data_splits import load_splits

PAGE_FILE = "report.html"
# folders of other kinds by the file that tells them: what they are, and the page they hold
OTHER_FOLDERS = {
    SWEEP_FILE: ("sweep", SWEEP_PAGE),
    EPOCHS_FILE: ("plot of accuracy against epochs", EPOCHS_PAGE),
}
PICTURES_OF_A_RUN = 6  # at the most, where a run is one of several on a page
NOT_WANTED = Pictures(test=None)


def report(
    place: Path,
    *,
    out: Path | None = None,
    num_images: int = 12,
    data_dir: Path | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Write the page about a run or a comparison, and say what is in it.

    Args:
        place: A finished run's folder, that of a comparison, or of one on several datasets.
        out: The file to write; None makes report.html in that folder.
        num_images: Pictures in each list of mistakes; 0 leaves the pictures out.
        data_dir: Where the dataset lies now, if it has moved.
        progress: Called while the dataset is read.

    Raises:
        UsageError: The file to write exists, and is no page of ours.
        DataError: The folder is neither a run nor a comparison, or its files are damaged.
        CheckpointError: The run has not finished.
        ResourceError: The disk is full.
    """
    path = out if out is not None else place / PAGE_FILE
    library = Library(num_images=num_images, data_dir=data_dir, progress=progress)
    if (place / COMPARISON_FILE).is_file():
        _check_replaceable(path)
        page = _comparison_page(place, library)
        runs, text, answer = page.runs, comparison_html(page), page.answer
        kind, notes = "comparison", list(page.missing_runs)
    elif RunFolder(place).is_run:
        _check_replaceable(path)
        run = RunFolder(place)
        one = run_page(
            run,
            anchor="run",
            pictures=library.pictures(run),
            num_images=num_images,
            attention=True,
        )
        runs, text, answer = [one], run_html(one), one.sentences[0]
        kind, notes = "run", []
    elif (place / DATASETS_FILE).is_file():
        _check_replaceable(path)
        table = _datasets_page(_read(place / DATASETS_FILE, ("rows", "comparisons", "datasets")))
        runs, text, answer = [], datasets_html(table), table.answers[0].answer
        kind, notes = "datasets", list(table.failed)
    else:
        raise _nothing_to_report(place)
    write_text_atomic(path, text)
    notes += dict.fromkeys(run.pictures_note for run in runs if run.pictures_note)
    return {
        "report": str(path),
        "kind": kind,
        "subject": str(place),
        "headline": answer,
        "runs": [run.folder for run in runs],
        "num_pictures": text.count("<img "),
        "bytes": len(text.encode("utf-8", "backslashreplace")),
        "notes": notes,
    }


class Library:
    """Opens the test images of runs, each dataset once."""

    def __init__(
        self, *, num_images: int, data_dir: Path | None, progress: Progress | None
    ) -> None:
        self.num_images = num_images
        self._data_dir = data_dir
        self._progress = progress
        self._opened: dict[str, Pictures] = {}

    def pictures(self, folder: RunFolder) -> Pictures:
        """Return a run's test images, or why there are none to show."""
        if self.num_images == 0:
            return NOT_WANTED
        recipe = load_recipe(str(folder.path / RECIPE_FILE))
        if self._data_dir is not None:
            # a folder of images has no name of its own to be looked up by: it lies there itself
            named = "dataset" if Path(recipe.data.dataset).is_absolute() else "data_dir"
            data = recipe.data.model_copy(update={named: str(self._data_dir)})
            recipe = recipe.model_copy(update={"data": data})
        key = recipe.data.model_dump_json()
        if key not in self._opened:
            self._opened[key] = self._open(recipe, folder)
        return self._opened[key]

    def _open(self, recipe: Recipe, folder: RunFolder) -> Pictures:
        try:
            splits = load_splits(recipe.data, progress=self._progress)
        except DeitTransferError as error:
            return Pictures(
                test=None, note=f"The images are not shown, as they could not be read: {error}"
            )
        known = folder.read_json(RESULT_FILE).get("data_fingerprint")
        changed = known is not None and known != splits.fingerprint
        note = "The dataset has changed since; images that are gone or relabeled are not shown."
        return Pictures(test=splits.test, note=note if changed else "")


def _nothing_to_report(place: Path) -> DataError:
    """Return the error for a folder that no report can be written about."""
    list_them = "deit-transfer runs list FOLDER shows the runs below a folder"
    if not place.is_dir():
        return DataError(f"there is no folder {place}", hint=list_them)
    for name, (kind, own_page) in OTHER_FOLDERS.items():
        if (place / name).is_file():
            said = f"{place} is a {kind}, whose page is {place / own_page}; report writes pages on"
            return DataError(
                f"{said} runs and comparisons", hint=f"deit-transfer report {_run_of(place / name)}"
            )
    inside = [path.parent for path in sorted(place.rglob(COMPARISON_FILE))]
    inside += [run.path for run in reversed(find_runs(place))]
    return DataError(
        f"{place} is neither a run nor a comparison: it has no {RECIPE_FILE} and no "
        f"{COMPARISON_FILE}",
        hint=f"Below it there is one: deit-transfer report {inside[0]}" if inside else list_them,
    )


def _run_of(file: Path) -> str:
    """Return the run that a sweep's or a length figure's object puts first, RUN without one."""
    found = _read(file, ())
    if winner := found.get("winner"):
        return str(winner["run"])
    runs = [run for one in found.get("points") or [] for arm in one["arms"] for run in arm["runs"]]
    return str(runs[-1]["run"]) if runs else "RUN"


def _check_replaceable(path: Path) -> None:
    """Refuse to write over a file that is not a page of ours; raises UsageError."""
    if not path.parent.is_dir():
        raise UsageError(
            f"there is no folder {path.parent} to write {path.name} into",
            hint="Make it first, or name another file with --out",
        )
    check_replaceable(
        path,
        lambda head: is_report(head.decode("utf-8", "replace")),
        ours="a report of this program",
    )


def _comparison_page(place: Path, library: Library) -> ComparisonPage:
    comparison = _read(place / COMPARISON_FILE, ("arms", "dataset", "model"))
    found, missing = _find_runs(place, comparison)
    count = min(PICTURES_OF_A_RUN, library.num_images)
    runs = [
        run_page(
            folder,
            title=_run_label(arm, folder, found),
            anchor=f"run-{number}",
            pictures=library.pictures(folder),
            num_images=count,
        )
        for number, (arm, folder) in enumerate(found, start=1)
    ]
    charts = _arm_charts(found)
    return ComparisonPage(
        title=f"What does pretraining buy? {comparison['model']} on {comparison['dataset']}",
        answer=verdict(comparison),
        sentences=list((comparison.get("label_efficiency") or {}).get("sentences") or []),
        differences=[difference_line(one) for one in comparison.get("differences") or []],
        cautions=footnotes(comparison),
        arm_titles=(
            *["top-5"] * tells_top5(comparison),
            "mean per class",
            "images seen",
            "time",
            "images/s",
            "paper",
        ),
        arms=_arm_rows(comparison["arms"], with_top5=tells_top5(comparison)),
        charts=charts,
        figures=_figures(place, drawn=bool(charts)),
        tables=_efficiency_tables(comparison),
        classes=_class_table(found),
        runs=runs,
        missing_runs=missing,
        setup=_setup(place, comparison),
    )


def _datasets_page(found: Mapping[str, Any]) -> DatasetsPage:
    names = found["datasets"]
    rows = [
        [row_title(row), *(row_cell(row, name, plus_minus="±") for name in names)]
        for row in found["rows"]
    ]
    return DatasetsPage(
        title="What does pretraining buy? Several datasets",
        table=Table(["arm", *names], rows),
        answers=[
            DatasetAnswer(name, verdict(one), str(one.get("folder") or ""))
            for name, one in zip(names, found["comparisons"], strict=True)
        ],
        failed=[f"{one['dataset']} failed: {one['error']}" for one in found.get("failed") or []],
        cautions=list(found.get("labels") or []),
    )


def _read(path: Path, needed: Sequence[str]) -> dict[str, Any]:
    """Read an object from a file; raises DataError where it is damaged or lacks what is needed."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        absent = [key for key in needed if not found.get(key)]
    except (OSError, ValueError, AttributeError) as error:
        raise DataError(f"{path} cannot be read: {error}", hint="Compare again") from error
    if absent:
        raise DataError(f"{path} has no {' and no '.join(absent)}", hint="Compare again")
    return found


def _find_runs(
    place: Path, comparison: Mapping[str, Any]
) -> tuple[list[tuple[str, RunFolder]], list[str]]:
    """Return each run with its arm, and a sentence for each that is not here any more."""
    found, missing = [], []
    for arm in comparison["arms"]:
        for run in arm["runs"]:
            folder = _find_run(place, Path(run["run"]))
            if folder is None or not folder.read_json(RESULT_FILE):
                missing.append(
                    f"{run['run']} of the arm {arm['arm']} is no trained run that lies here: "
                    "only its scores are told."
                )
            else:
                found.append((str(arm["arm"]), folder))
    return found, missing


def _find_run(place: Path, named: Path) -> RunFolder | None:
    """Find a run by the path that was written down, or beside its comparison if both moved."""
    beside = (Path(*named.parts[-depth:]) for depth in (2, 1))
    moved = [above / tail for tail in beside for above in place.resolve().parents[:3]]
    for path in (named, *moved):
        if RunFolder(path).is_run:
            return RunFolder(path)
    return None


def _arm_rows(arms: Sequence[Mapping[str, Any]], *, with_top5: bool) -> list[ArmRow]:
    best = max(arm["top1_mean"] for arm in arms)
    rows = []
    for arm in arms:
        low, high = arm.get("top1_ci95") or (None, None)
        cells = (
            *[percent(arm.get("top5_mean"))] * with_top5,
            percent(arm.get("mean_per_class_mean")),
            compact(arm.get("images_seen_mean")),
            duration(arm.get("seconds_mean")),
            compact(arm.get("images_per_second_mean")),
            percent(arm.get("paper_top1")),
        )
        top1 = arm["top1_mean"]
        first, *others = top1_lines(arm, plus_minus="±")
        interval = ", ".join(x for x in (first.removeprefix(percent(top1)).strip(), *others) if x)
        rows.append(ArmRow(str(arm["arm"]), top1, low, high, interval, cells, top1 == best))
    return rows


def _efficiency_tables(comparison: Mapping[str, Any]) -> list[tuple[str, Table]]:
    """Return top-1 of every arm at every share of the labels, where there are several."""
    points = (comparison.get("label_efficiency") or {}).get("points") or []
    if not points:
        return []
    names = list(dict.fromkeys(arm["arm"] for point in points for arm in point["arms"]))
    rows = []
    for point in points:
        arms = {arm["arm"]: arm for arm in point["arms"]}
        cells = [
            interval_cell(arms[name], plus_minus="±") if name in arms else "-" for name in names
        ]
        rows.append([share_text(point["fraction"]), grouped(point["labels"]), *cells])
    return [("Top-1 by labeled images", Table(["share", "labels", *names], rows))]


def _arm_charts(found: Sequence[tuple[str, RunFolder]]) -> list[Chart]:
    """Return accuracy and loss of every run against the images seen."""
    metrics = [(_run_label(arm, folder, found), folder.metrics()) for arm, folder in found]

    def curves(key: str) -> list[Curve]:
        return [
            Curve(
                name=label,
                x=[float(record["images_seen"]) for record in records],
                y=[record.get(key) for record in records],
            )
            for label, records in metrics
        ]

    told = (
        ("val_top1", "Accuracy on validation images", "top-1 in percent", 1),
        ("loss", "Training loss", "mean loss of an image, augmentation included", 3),
    )
    charts = [
        line_chart(curves(key), title=title, x_title="images seen", y_title=unit, digits=digits)
        for key, title, unit, digits in told
    ]
    return [chart for chart in charts if chart is not None]


def _run_label(arm: str, folder: RunFolder, found: Sequence[tuple[str, RunFolder]]) -> str:
    alone = sum(other == arm for other, _ in found) == 1
    return arm if alone else f"{arm}, seed {folder.read_json(RESULT_FILE).get('seed')}"


def _figures(place: Path, *, drawn: bool) -> list[Figure]:
    """Return the figures that lie in the folder; the curves only where they cannot be drawn."""
    paths = sorted(place.glob("*.png"))
    return [
        Figure(
            caption=f"{path.stem.replace('-', ' ').replace('_', ' ')}, as it was drawn then",
            source=data_uri(path.read_bytes(), kind="image/png"),
        )
        for path in paths
        if not (drawn and path.name == FIGURE_FILE)
    ]


def _class_table(found: Sequence[tuple[str, RunFolder]]) -> Table:
    """Return the share of each class that each arm recognized, mean over its runs, in percent."""
    arms = list(dict.fromkeys(arm for arm, _ in found))
    if len(arms) < 2:
        return Table((), ())
    shares: dict[str, list[dict[str, float]]] = {arm: [] for arm in arms}
    for arm, folder in found:
        answers = read_page_predictions(folder)
        right = answers.decisions == answers.labels
        shares[arm].append(
            {
                name: 100 * float(right[answers.labels == label].mean())
                for label, name in enumerate(answers.class_names)
                if (answers.labels == label).any()
            }
        )
    rows = [
        (name, [float(np.mean([one[name] for one in shares[arm]])) for arm in arms])
        for name in shares[arms[0]][0]
        if all(name in one for runs in shares.values() for one in runs)
    ]
    # where the arms differ most is what a comparison is read for
    rows.sort(key=lambda row: min(row[1]) - max(row[1]))
    return Table(["class", *arms], [[name, *map(percent, values)] for name, values in rows])


def _setup(place: Path, comparison: Mapping[str, Any]) -> list[Fact]:
    facts = [
        ("folder", str(place)),
        ("dataset", comparison["dataset"]),
        ("model", comparison["model"]),
        ("pretrained weights of the fine-tuned arm", comparison.get("pretrained")),
        ("seeds", ", ".join(str(seed) for seed in comparison.get("seeds") or [])),
        ("budget", comparison.get("budget")),
        ("images", counts_text(comparison["counts"]) if comparison.get("counts") else None),
        ("test images", grouped(comparison.get("num_test_images"))),
        ("fingerprint of the data", comparison.get("data_fingerprint")),
    ]
    return [(label, str(value)) for label, value in facts if value not in (None, "")]
