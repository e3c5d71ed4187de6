"""The header of a run: data, model, settings, device and estimated time."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from rich.console import RenderableType
from rich.text import Text

from deit_transfer.report.number_format import (
    compact,
    counted,
    counts_text,
    duration,
    listed,
    rate,
)
from deit_transfer.report.terminal_style import Screen, TerminalStyle, facts_table

MODE_TITLES = {
    "finetune": "Fine-tune",
    "scratch": "Train from scratch",
    "pretrain": "Pretrain",
    "teacher": "Fit the teacher",
}
SHOWN_CLASSES = 6

Fact = tuple[str, RenderableType]


@dataclass(frozen=True, kw_only=True)
class HeaderFacts:
    """The values of a run's header; an empty or None value is not shown.

    Learning rates: `peak_lr` is that of the recipe, at batch 512; `scaled_lr` the one used.
    `batch_size` counts the images of a step over all processes; `accumulation` the forward
    passes of one process in a step. `load_report` is the summary, a line each, of what was
    copied, interpolated, initialized and dropped.
    """

    mode: str
    dataset: str
    counts: Mapping[str, int]
    class_names: Sequence[str]
    model: str
    resolution: int
    num_params: int
    num_trainable: int
    start: str
    recipe: str
    device: str
    precision: str
    batch_size: int
    micro_batch_size: int
    accumulation: int
    peak_lr: float
    scaled_lr: float
    floor_lr: float
    warmup_epochs: float
    epochs: int
    steps: int
    images_to_see: int
    seed: int
    selection: str
    layout: str = ""
    data_notes: Sequence[str] = ()
    start_origin: str = ""
    load_report: Sequence[str] = ()
    head: str = ""
    precision_reason: str = ""
    attention: str = ""
    steps_note: str = ""
    keeps_memory: bool = False
    compat: str = ""
    world_size: int = 1
    epochs_note: str = ""
    augmentation: str = ""
    distillation: str = ""
    selects_on_test: bool = False
    estimated_seconds: float | None = None
    run_folder: str = ""
    notes: Sequence[str] = ()


def run_header(facts: HeaderFacts) -> Screen:
    """Return the header's table, at most 80 columns wide where the console is."""
    return Screen(lambda terminal: facts_table(terminal, _title(facts), _groups(facts, terminal)))


def _title(facts: HeaderFacts) -> str:
    verb = MODE_TITLES.get(facts.mode, facts.mode.capitalize())
    return f"{verb}: {facts.model} on {facts.dataset}"


def _groups(facts: HeaderFacts, terminal: TerminalStyle) -> Iterator[list[Fact]]:
    for group in (
        _data(facts, terminal),
        _model(facts, terminal),
        _training(facts, terminal),
        _run(facts),
    ):
        yield [(label, value) for label, value in group if value]


def _data(facts: HeaderFacts, terminal: TerminalStyle) -> list[Fact]:
    return [
        ("dataset", facts.dataset),
        ("images", counts_text(facts.counts)),
        ("classes", f"{len(facts.class_names)}: {listed(facts.class_names, most=SHOWN_CLASSES)}"),
        ("layout", facts.layout),
        ("notes", terminal.lines(facts.data_notes)),
    ]


def _model(facts: HeaderFacts, terminal: TerminalStyle) -> list[Fact]:
    everything = facts.num_trainable == facts.num_params
    trained = "all trained" if everything else f"{compact(facts.num_trainable)} of them trained"
    size = f"{facts.resolution} px, {compact(facts.num_params)} parameters, {trained}"
    started = [line for line in (facts.start, facts.start_origin) if line]
    return [
        ("model", terminal.lines([facts.model, size])),
        ("pretrained", terminal.lines([*dict.fromkeys(started), *facts.load_report])),
        ("head", facts.head),
    ]


def _training(facts: HeaderFacts, terminal: TerminalStyle) -> list[Fact]:
    return [
        ("recipe", facts.recipe),
        ("semantics", facts.compat),
        ("batch", _batch(facts)),
        ("learning rate", terminal.lines(_learning_rate(facts, terminal))),
        ("length", _length(facts)),
        ("augmentation", facts.augmentation),
        ("distillation", facts.distillation),
        ("selection", _selection(facts, terminal)),
    ]


def _run(facts: HeaderFacts) -> list[Fact]:
    reason = f" ({facts.precision_reason})" if facts.precision_reason else ""
    attention = f", {facts.attention} attention" if facts.attention else ""
    memory = ", freed memory kept" if facts.keeps_memory else ""
    estimate = (
        "" if facts.estimated_seconds is None else f"about {duration(facts.estimated_seconds)}"
    )
    return [
        ("device", f"{facts.device}, {facts.precision}{reason}{attention}{memory}"),
        ("steps", facts.steps_note),
        ("seed", str(facts.seed)),
        ("time", estimate),
        ("folder", facts.run_folder),
        ("note", "; ".join(facts.notes)),
    ]


def _batch(facts: HeaderFacts) -> str:
    total = f"{counted(facts.batch_size, 'image')} a step"
    passes = f"{facts.accumulation} forward passes of {facts.micro_batch_size}"
    if facts.world_size > 1:
        return f"{total}, in {passes} on each of {facts.world_size} processes"
    return f"{total}, in {passes}" if facts.accumulation > 1 else total


def _learning_rate(facts: HeaderFacts, terminal: TerminalStyle) -> list[str]:
    scaled = f"{rate(facts.peak_lr)} at batch 512 {terminal.arrow} {rate(facts.scaled_lr)}"
    unit = "epoch" if facts.warmup_epochs == 1 else "epochs"
    warmup = f"{facts.warmup_epochs:g} {unit} of warm-up" if facts.warmup_epochs else "no warm-up"
    return [
        f"{scaled} at batch {facts.batch_size}",
        f"{warmup}, then falling to {rate(facts.floor_lr)}",
    ]


def _length(facts: HeaderFacts) -> str:
    note = f" ({facts.epochs_note})" if facts.epochs_note else ""
    epochs, steps = counted(facts.epochs, "epoch"), counted(facts.steps, "step")
    return f"{epochs}{note}, {steps}, {counted(facts.images_to_see, 'image')} seen"


def _selection(facts: HeaderFacts, terminal: TerminalStyle) -> Text:
    shown = terminal.text(facts.selection)
    if facts.selects_on_test:
        warning = "selected on test: the paper's protocol (optimistic)"
        shown = Text("\n").join([shown, terminal.text(warning, style="bold yellow")])
    return shown
