"""Show the result of a run."""

from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import RenderableType

from deit_transfer.report.number_format import counted, duration, grouped, percent, tells_top5
from deit_transfer.report.terminal_style import PLAIN, Screen, TerminalStyle, facts_table

Result = Mapping[str, Any]
Fact = tuple[str, RenderableType]

HEAD_NAMES = {"class": "class head", "distill": "distillation head", "joint": "both heads"}


def result_table(result: Result) -> Screen:
    """Return the table of one run's result.

    Args:
        result: A result object: `run`, `mode`, `dataset`, `model`, `start`, `seed`, `top1`,
            `top5`, `mean_per_class`, `loss`, `images_seen`, `epochs`, `seconds`,
            `images_per_second`; `num_classes`, where it is known and 5 or less, leaves top-5 out;
            and, each shown where it is given and not None: `top1_ci95`
            [low, high], `num_test_images`, `split` (scored; test when left out), `headline`,
            `heads`, `teacher_top1`, `teacher_agreement`, `val_top1_raw` and `val_top1_ema` (of
            the last epoch, on test where that selects), `weights` ("raw" or "ema", those
            scored), `selected_epoch`, `selects_on_test`, `paper_top1`, `paper_label`. Percent in
            0-100.
    """
    title = f"Result: {result.get('model') or 'the run'} on {result['dataset']}"
    return Screen(lambda terminal: facts_table(terminal, title, _groups(result, terminal)))


def result_line(result: Result) -> str:
    """Return a run's result in one line, for a run that is one of several."""
    # a probe and a soup depend on no single seed
    seed = "" if result["seed"] is None else f", seed {result['seed']}"
    return (
        f"{result['mode']}{seed}: top-1 {percent(result['top1'], digits=2)}% on "
        f"{_scored(result)}, "
        f"{duration(result['seconds'])}"
    )


def result_facts(result: Result) -> list[tuple[str, str]]:
    """Return the rows of a result's table as plain text, label and value."""
    return [(label, str(value)) for group in _groups(result, PLAIN) for label, value in group]


def _groups(result: Result, terminal: TerminalStyle) -> Iterator[list[Fact]]:
    for group in (
        _scores(result, terminal),
        _heads(result),
        _choice(result, terminal),
        _run(result),
    ):
        yield [(label, value) for label, value in group if value]


def _scores(result: Result, terminal: TerminalStyle) -> list[Fact]:
    scores = [
        ("top-1", _top1(result), "top1"),
        ("top-5", _points(result, "top5") if tells_top5(result) else "", "top5"),
        ("mean per class", _points(result, "mean_per_class"), "mean_per_class"),
    ]
    headline = result.get("headline", "top1")
    lines: list[Fact] = [
        (label, terminal.text(value, style="bold green" if key == headline else ""))
        for label, value, key in scores
        if value
    ]
    loss = result.get("loss")
    paper = _points(result, "paper_top1")
    label = f" ({result['paper_label']})" if result.get("paper_label") else ""
    return [
        *lines,
        ("loss", "" if loss is None else f"{loss:.4f}"),
        ("scored on", _scored(result) if result.get("num_test_images") else ""),
        ("paper", f"{paper}{label}" if paper else ""),
    ]


def _scored(result: Result) -> str:
    return counted(result["num_test_images"], f"{result.get('split', 'test')} image")


def _top1(result: Result) -> str:
    interval = result.get("top1_ci95")
    shown = _points(result, "top1")
    if not interval:
        return shown
    low, high = (percent(end, digits=2) for end in interval)
    return f"{shown} (Wilson 95% interval {low} to {high})"


def _heads(result: Result) -> list[Fact]:
    heads = result.get("heads") or {}
    names: list[Fact] = [
        (name, percent(heads.get(key), digits=2))
        for key, name in HEAD_NAMES.items()
        if heads.get(key) is not None
    ]
    agreement = _points(result, "teacher_agreement")
    return [
        # a plain model has one head, and top-1 above is already its figure
        *(names if len(names) > 1 else []),
        ("teacher top-1", _points(result, "teacher_top1")),
        ("teacher agreement", f"{agreement}% of predictions" if agreement else ""),
    ]


def _choice(result: Result, terminal: TerminalStyle) -> list[Fact]:
    raw, ema = _points(result, "val_top1_raw"), _points(result, "val_top1_ema")
    weights = {"raw": "raw weights", "ema": "averaged weights (EMA)"}
    split = "test" if result.get("selects_on_test") else "val"
    on_test = "selected on test: the paper's protocol (optimistic)"
    return [
        (f"raw / EMA on {split}", f"{raw or '-'} / {ema or '-'}, last epoch" * bool(raw or ema)),
        ("weights scored", weights.get(str(result.get("weights")), "")),
        ("selected epoch", _selected_epoch(result)),
        (
            "selection",
            terminal.text(on_test if result.get("selects_on_test") else "", style="yellow"),
        ),
    ]


def _selected_epoch(result: Result) -> str:
    epoch, epochs = result.get("selected_epoch"), result.get("epochs")
    if epoch is None:
        return ""
    if epoch == 0:
        return f"none of {epochs}: the head fitted to frozen features was not beaten on val"
    return f"{epoch} of {epochs}"


def _run(result: Result) -> list[Fact]:
    seen, epochs = result.get("images_seen"), result.get("epochs")
    within = "" if epochs is None else f" in {counted(epochs, 'epoch')}"
    taken, speed = result.get("seconds"), result.get("images_per_second")
    pace = f", {grouped(speed)} images/s" if speed else ""
    seed = result.get("seed")
    return [
        ("pretrained", str(result.get("pretrained") or "")),
        ("images seen", "" if seen is None else f"{grouped(seen)}{within}"),
        ("time", "" if taken is None else f"{duration(taken)}{pace}"),
        ("seed", "" if seed is None else str(seed)),
        ("run", str(result.get("run") or "")),
    ]


def _points(result: Result, key: str) -> str:
    value = result.get(key)
    return "" if value is None else percent(value, digits=2)
