"""Show label efficiency: accuracy by number of labels, and what labels are worth.

Reads the object that a comparison at several sizes holds as `label_efficiency`; tests nothing.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType

from deit_transfer.report.number_format import grouped, p_text, percent
from deit_transfer.report.terminal_style import Screen, TerminalStyle, new_table

Efficiency = Mapping[str, Any]
Rate = Mapping[str, Any]

# columns that fit beside the labels in 80 characters
ARMS_A_TABLE = 4


def efficiency_table(efficiency: Efficiency) -> Screen:
    """Return top-1 of every arm at every number of labels, and the exchange rate in words.

    Args:
        efficiency: `points` in ascending order of labels (each `fraction`, `labels`, and `arms`
            as `comparison_table` takes them) and `sentences`.
    """
    return Screen(lambda terminal: _screen(efficiency, terminal))


def share_text(fraction: float) -> str:
    """Return a share of the labels as it is read: 10%, 2.5%."""
    return f"{100 * fraction:g}%"


def exchange_sentences(rates: Sequence[Rate]) -> list[str]:
    """Return for each arm one sentence on what its labels are worth, or why none can be said.

    The strongest thing that the data supports is said: that the baseline would need more labels
    than there are, with the fewest labels of the arm; else a number with both ends of its
    interval; else what is clearly beaten.

    Args:
        rates: What `analysis.exchange.exchange_rates` returns.
    """
    arms = dict.fromkeys(rate["arm"] for rate in rates)
    return [_sentence([rate for rate in rates if rate["arm"] == arm]) for arm in arms]


def interval_cell(arm: Mapping[str, Any], *, plus_minus: str) -> str:
    """Return a mean with the half-width of its interval, or with the ends of an uneven one."""
    mean, interval = arm["top1_mean"], arm.get("top1_ci95")
    if not interval:
        return percent(mean)
    low, high = interval
    if abs((high + low) / 2 - mean) < 0.01:
        return f"{percent(mean)} {plus_minus} {percent((high - low) / 2)}"
    return f"{percent(mean)} [{percent(low)}, {percent(high)}]"


def _screen(efficiency: Efficiency, terminal: TerminalStyle) -> RenderableType:
    points = efficiency["points"]
    names = list(dict.fromkeys(arm["arm"] for point in points for arm in point["arms"]))
    groups = [names[i : i + ARMS_A_TABLE] for i in range(0, len(names), ARMS_A_TABLE)]
    sentences = [terminal.text(text, style="bold green") for text in efficiency["sentences"]]
    return Group(*(_table(points, group, terminal) for group in groups), *sentences)


def _table(
    points: Sequence[Mapping[str, Any]], names: Sequence[str], terminal: TerminalStyle
) -> RenderableType:
    table = new_table(terminal, "Top-1 by labeled images, with 95% intervals")
    table.add_column("labels", justify="right", no_wrap=True)
    for name in names:
        # a space gives long names a place to break
        table.add_column(terminal.text(name.replace("/", " /")), overflow="fold")
    for point in points:
        arms = {arm["arm"]: arm for arm in point["arms"]}
        cells = [
            terminal.text(
                interval_cell(arms[name], plus_minus=terminal.plus_minus) if name in arms else "-"
            )
            for name in names
        ]
        labels = terminal.lines([grouped(point["labels"]), share_text(point["fraction"])])
        table.add_row(labels, *cells)
    return table


def _sentence(rates: Sequence[Rate]) -> str:
    more = [rate for rate in rates if rate["relation"] == "more_than"]
    if more:
        return _more_than(more[0])
    about = [rate for rate in rates if rate["relation"] == "about"]
    if about:
        return _about(about[0])
    at_least = [
        rate
        for rate in rates
        if rate["relation"] == "at_least" and rate["beaten"]["labels"] >= rate["labels"]
    ]
    if at_least:
        return _at_least(max(at_least, key=lambda rate: rate["beaten"]["labels"] / rate["labels"]))
    behind = [rate for rate in rates if rate["beaten_by"] is not None]
    behind = [rate for rate in behind if rate["beaten_by"]["labels"] <= rate["labels"]]
    if behind:
        return _behind(behind[-1])
    ahead = [rate for rate in rates if rate["beaten"] is not None]
    return _no_more_than_itself(ahead[-1]) if ahead else _cannot_say(rates)


def _more_than(rate: Rate) -> str:
    most = rate["beaten"]
    return (
        f"{_arm(rate)} matches {rate['baseline']} with more than {share_text(most['fraction'])} "
        f"({grouped(most['labels'])}): it is ahead of that by {_difference(most)}."
    )


def _about(rate: Rate) -> str:
    low, high = rate["equals_ci95"]
    return (
        f"{_arm(rate)} matches {rate['baseline']} with about {grouped(rate['equals_labels'])} "
        f"(95% interval {grouped(low)} to {grouped(high)}), read off its curve between the sizes "
        "measured."
    )


def _at_least(rate: Rate) -> str:
    beaten = rate["beaten"]
    return (
        f"{_arm(rate)} beats {rate['baseline']} with {share_text(beaten['fraction'])} "
        f"({grouped(beaten['labels'])}) by {_difference(beaten)}; how many more labels it is worth "
        "cannot be said: beyond that, chance allows either to be better."
    )


def _behind(rate: Rate) -> str:
    by = rate["beaten_by"]
    lead = {**by, "delta": -by["delta"], "delta_ci95": [-end for end in by["delta_ci95"][::-1]]}
    return (
        f"{_arm(rate)} is worth no more than {share_text(by['fraction'])} "
        f"({grouped(by['labels'])}) to {rate['baseline']}, which is ahead by {_difference(lead)}."
    )


def _no_more_than_itself(rate: Rate) -> str:
    beaten = rate["beaten"]
    return (
        f"{_arm(rate)} beats {rate['baseline']} with {share_text(beaten['fraction'])} "
        f"({grouped(beaten['labels'])}) by {_difference(beaten)}; whether its labels are worth "
        f"more than as many of {rate['baseline']} cannot be said: there, chance allows either to "
        "be better. More seeds or more test images may tell."
    )


def _cannot_say(rates: Sequence[Rate]) -> str:
    last = rates[-1]
    why = next((rate["reason"] for rate in reversed(rates) if rate["reason"]), "")
    return (
        f"How many labels of {last['baseline']} those of {last['arm']} are worth cannot be said: "
        f"{why}. More seeds, more test images or smaller sizes may tell."
    )


def _arm(rate: Rate) -> str:
    return (
        f"{rate['arm']} with {share_text(rate['fraction'])} of the labels "
        f"({grouped(rate['labels'])})"
    )


def _difference(held: Mapping[str, Any]) -> str:
    low, high = held["delta_ci95"]
    return (
        f"{held['delta']:.1f} points (95% interval {low:.1f} to {high:.1f}, "
        f"{p_text(held['p_value'])})"
    )
