"""Show a network's tokens: the table of cosines, and three plots.

Shapes: T tokens, an h x w grid of patches, R pixels a side.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from rich.console import Group, RenderableType
from rich.table import Table

from deit_transfer.report.number_format import counted, grouped
from deit_transfer.report.plot_style import DPI, INK, STYLES, drawn_png, quieten
from deit_transfer.report.terminal_style import Screen, TerminalStyle, facts_table, new_table

Facts = Mapping[str, Any]

TOKEN_TITLES = {"class": "class token", "distill": "distillation token"}
KIND_TITLES = {"last": "last layer", "rollout": "rollout"}
MOST_LETTERS = 26
NARROW = 0.06  # inches around each part of a figure


class AttentionImage(NamedTuple):
    """An image (R, R, 3) uint8 as the network got it, and the maps (T, h, w) by kind."""

    name: str
    pixels: NDArray[np.uint8]
    maps: Mapping[str, NDArray[np.float32]]


def tokens_table(facts: Facts) -> Screen:
    """Return the cosines between the two tokens by layer, then positions and attention.

    Args:
        facts: The object of `run.tokens.tokens`.
    """
    return Screen(lambda terminal: _screen(facts, terminal))


def distillation_verdict(facts: Facts) -> str:
    """Describe in a sentence or two what the tokens learned, beside the paper's."""
    if not facts["layers"]:
        return (
            f"{facts['model']} has one token, the class token: there is no second token to compare "
            "it with."
        )
    paper, learned = facts["paper"], facts["token_cosine"]
    first, last = facts["layers"][0]["mean"], facts["layers"][-1]["mean"]
    ours = (
        f"The learned tokens have a cosine of {learned:.3f} ({first:.3f} with their position "
        f"embeddings), and {last:.3f} after the last layer."
    )
    if facts["two_class_tokens"]:
        control = f"{paper['two_class_tokens']:.3f}"
        return f"{ours} The paper's two class tokens, both trained on the true label: {control}."
    return (
        f"{ours} The paper's distilled network: {paper['token_cosine']:.2f} for the learned "
        f"tokens, {paper['last_layer']:.2f} after the last layer."
    )


def cosines_png(path: Path, facts: Facts) -> None:
    """Draw the cosine after each layer, its spread over images, and the paper's two figures."""
    layers = facts["layers"]
    numbers = [layer["layer"] for layer in layers]
    paper = facts["paper"]

    def draw(figure: Any) -> None:
        axes, style = figure.subplots(), STYLES[1]
        spread = f"5th to 95th percentile of {facts['num_images']:,} images"
        low, high = ([layer[end] for layer in layers] for end in ("low", "high"))
        axes.fill_between(numbers, low, high, color=style.color, alpha=0.2, lw=0, label=spread)
        means = [layer["mean"] for layer in layers]
        axes.plot(numbers, means, color=style.color, marker=style.marker, lw=2.4, label="mean")
        at = [0, numbers[-1]]
        values = [paper["token_cosine"], paper["last_layer"]]
        label = "the paper's distilled network (learned tokens; last layer)"
        if facts["two_class_tokens"]:
            at, values = [0], [paper["two_class_tokens"]]
            label = "the paper's two class tokens (learned tokens)"
        axes.plot(
            at, values, "D", color=STYLES[0].color, markersize=9, mfc="none", mew=2, label=label
        )
        alone = "learned tokens without positions"
        axes.plot([0], [facts["token_cosine"]], "x", color=INK, markersize=9, mew=2, label=alone)
        axes.set_xticks(numbers, ["input", *map(str, numbers[1:])])
        axes.set_ylim(min(-0.05, *low, facts["token_cosine"] - 0.05), 1.03)
        axes.set_xlabel("after layer", color=INK)
        axes.set_ylabel("cosine", color=INK)
        axes.set_title(
            f"Class and distillation token of {facts['name']}",
            loc="left",
            color=INK,
            parse_math=False,
        )
        quieten(axes)
        figure.legend(loc="outside lower center", ncols=2, frameon=False)

    drawn_png(path, draw, size=(10, 6.4), dpi=DPI // 2, pad=NARROW)


def positions_png(path: Path, similarity: NDArray[np.float64], *, title: str) -> None:
    """Draw, for every patch, how alike its position embedding is to all others (h, w, h, w)."""
    height, width = similarity.shape[:2]
    gap = 1
    mosaic = np.full((height * (height + gap) - gap, width * (width + gap) - gap), np.nan)
    for row in range(height):
        for column in range(width):
            top, left = row * (height + gap), column * (width + gap)
            mosaic[top : top + height, left : left + width] = similarity[row, column]

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        shown = axes.imshow(mosaic, cmap="viridis", vmax=1.0, interpolation="nearest")
        axes.set_xticks(np.arange(width) * (width + gap) + (width - 1) / 2, range(1, width + 1))
        axes.set_yticks(np.arange(height) * (height + gap) + (height - 1) / 2, range(1, height + 1))
        axes.tick_params(length=0, labelsize=9, colors=INK)
        axes.spines[:].set_visible(False)
        axes.set_xlabel("patch column", color=INK)
        axes.set_ylabel("patch row", color=INK)
        axes.set_title(
            f"Position embeddings of {title}: cosine of each with all", loc="left", parse_math=False
        )
        figure.colorbar(shown, ax=axes, shrink=0.8, label="cosine")

    drawn_png(path, draw, size=(9, 8), dpi=DPI // 2, pad=NARROW)


def attention_png(
    path: Path, rows: Sequence[AttentionImage], *, tokens: Sequence[str], title: str
) -> None:
    """Draw each image beside what each token attends to, bright where it takes most.

    Each map has a scale of its own, from its smallest to its largest value.
    """
    kinds = list(rows[0].maps)
    columns = [(kind, number) for number in range(len(tokens)) for kind in kinds]

    def draw(figure: Any) -> None:
        grid = figure.subplots(len(rows), 1 + len(columns), squeeze=False)
        for axes in grid.flat:
            axes.set_xticks([])
            axes.set_yticks([])
            axes.spines[:].set_visible(False)
        for row, cells in zip(rows, grid, strict=True):
            side = row.pixels.shape[0]
            cells[0].imshow(row.pixels, interpolation="nearest")
            cells[0].set_xlabel(_short(row.name), fontsize=9, parse_math=False)
            for (kind, number), axes in zip(columns, cells[1:], strict=True):
                axes.imshow(row.pixels.mean(axis=2), cmap="gray", interpolation="nearest")
                taken = row.maps[kind][number]  # (h, w)
                frame = (-0.5, side - 0.5, side - 0.5, -0.5)
                axes.imshow(taken, cmap="inferno", alpha=0.65, extent=frame)
        grid[0, 0].set_title("image", fontsize=11)
        for (kind, number), axes in zip(columns, grid[0, 1:], strict=True):
            heading = f"{TOKEN_TITLES[tokens[number]]}\n{KIND_TITLES[kind]}"
            axes.set_title(heading, fontsize=11)
        heading = f"Attention of {title} (each map from its least to its most)"
        figure.suptitle(heading, fontsize=13, parse_math=False)

    size = (2.2 * (1 + len(columns)), 0.9 + 2.35 * len(rows))
    drawn_png(path, draw, size=size, dpi=80, pad=NARROW)


def _screen(facts: Facts, terminal: TerminalStyle) -> RenderableType:
    title = f"Tokens of {facts['name']}: {grouped(facts['num_images'])} {facts['source']}"
    groups = [_token_facts(facts), _position_facts(facts), _attention_facts(facts)]
    return Group(
        *([_layer_table(facts, terminal, title)] if facts["layers"] else []),
        facts_table(terminal, "" if facts["layers"] else title, groups),
        terminal.text(distillation_verdict(facts), style="bold green"),
    )


def _layer_table(facts: Facts, terminal: TerminalStyle, title: str) -> Table:
    table = new_table(terminal, title)
    table.add_column("after layer")
    for name in ("cosine", "std", "5%", "95%"):
        table.add_column(name, justify="right", no_wrap=True)
    rows = [(_layer_name(layer["layer"]), layer) for layer in facts["layers"]]
    for name, layer in [*rows, ("final norm", facts["final"])]:
        table.add_row(name, *(f"{layer[key]:.3f}" for key in ("mean", "std", "low", "high")))
    return table


def _layer_name(number: int) -> str:
    return str(number) if number else "input, with positions"


def _token_facts(facts: Facts) -> list[tuple[str, RenderableType]]:
    if facts["token_cosine"] is None:
        return []
    return [
        ("learned tokens", f"cosine {facts['token_cosine']:.3f}, without positions"),
        ("their positions", f"cosine {facts['token_position_cosine']:.3f}"),
    ]


def _position_facts(facts: Facts) -> list[tuple[str, RenderableType]]:
    positions = facts["positions"]
    if positions is None:
        return [("positions", "no table of learned position embeddings")]
    height, width = positions["grid"]
    kinds = ("neighbors", "same_row", "same_column", "elsewhere")
    shown = [
        f"{kind.replace('_', ' ')} {positions[kind]:.2f}" for kind in kinds if kind in positions
    ]
    return [(f"{height} x {width} positions", f"mean cosine: {', '.join(shown)}")]


def _attention_facts(facts: Facts) -> list[tuple[str, RenderableType]]:
    attention = facts["attention"]
    lines: list[tuple[str, RenderableType]] = []
    for kind, name in KIND_TITLES.items():
        found = attention[kind]
        shares = [f"{token} {100 * share:.0f}%" for token, share in found["patch_share"].items()]
        alike = "" if found["overlap"] is None else f"; both maps: cosine {found['overlap']:.2f}"
        lines.append((f"attention, {name}", f"on patches: {', '.join(shares)}{alike}"))
    return [
        *lines,
        ("", f"attention: mean over heads, {counted(attention['num_images'], 'image')}"),
    ]


def _short(text: str) -> str:
    return text if len(text) <= MOST_LETTERS else f"...{text[-MOST_LETTERS + 3 :]}"
