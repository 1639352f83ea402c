"""The comparison as tables of 80 columns, and as a picture."""

from collections.abc import Mapping
from typing import Any

from matplotlib.axes import Axes
from rich.console import Console
from rich.table import Table

from benchmarks.command import Report, print_place
from benchmarks.peers.roster import OURS, PEERS, Peer
from regnet.report.figure import Palette, Picture


def show(report: Report) -> None:
    """Where and what was measured, images/s with ratios, and all else."""
    print_place(report)
    print(", ".join(f"{name} {version}" for name, version in report["versions"].items()))
    of = report["settings"]
    side, epochs = of["resolution"], of["epochs"]
    print(
        f"network {of['network']}, {side}x{side}, {of['precision']}, {report['processes']} x {of['device']}, "
        f"{report['threads']} threads, {of['workers']} workers"
    )
    print(
        f"rounds: {report['rounds']}, of {epochs} epochs of {of['steps']} steps of {of['batch_size']} images; "
        "rates without the first"
    )
    console = Console()
    console.print(rates(report["results"]))
    console.print(costs(report["results"], epochs))
    for name, result in report["results"].items():
        if not result["learned"]:
            print(f"the loss of {PEERS[name].label} did not fall")


def rates(results: Mapping[str, Any]) -> Table:
    table = Table()
    table.add_column("images/s")
    for heading in ("median", "min..max", "ours/it", "min..max"):
        table.add_column(heading, justify="right")
    for name, result in results.items():
        rate, ratio = result["images_per_second"], result["ours_over_it"]
        digits = ",.0f" if rate["lowest"] >= 1000 else ".1f"
        of_ratio = ("", "") if name == OURS.name else (f"{ratio['median']:.2f}", _range(ratio, ".2f"))
        table.add_row(PEERS[name].label, format(rate["median"], digits), _range(rate, digits), *of_ratio)
    return table


def costs(results: Mapping[str, Any], epochs: int) -> Table:
    table = Table()
    headings = ("1st step", f"{epochs} epochs", "memory", "GPU", "loss")
    table.add_column("since launch")
    for heading in headings:
        table.add_column(heading, justify="right")
    for name, result in results.items():
        gpu = result["gpu_bytes"]
        table.add_row(
            PEERS[name].label,
            f"{result['first_step']['median']:.1f} s",
            f"{result['finished']['median']:.1f} s" if PEERS[name].evaluates else "",
            f"{result['memory_bytes'] / 1e9:.2f} GB",
            f"{gpu / 1e9:.2f} GB" if gpu else "",
            f"{result['first_loss']:.2f} > {result['last_loss']:.2f}",
        )
    return table


def _range(spread: Mapping[str, float], digits: str) -> str:
    return f"{format(spread['lowest'], digits)}..{format(spread['highest'], digits)}"


def colour(peer: Peer, palette: Palette) -> str:
    if peer is OURS:
        return palette.groups[0]
    return palette.groups[1] if peer.evaluates else palette.grid


def picture(report: Report) -> Picture:
    """Images/s as bars, with lines from the slowest round to the fastest."""
    results = report["results"]
    of = report["settings"]

    def draw(axes: Axes, palette: Palette) -> None:
        names = list(reversed(results))
        spreads = [results[name]["images_per_second"] for name in names]
        medians = [spread["median"] for spread in spreads]
        reach = [
            [spread["median"] - spread["lowest"] for spread in spreads],
            [spread["highest"] - spread["median"] for spread in spreads],
        ]
        colours = [colour(PEERS[name], palette) for name in names]
        axes.barh([PEERS[name].label for name in names], medians, color=colours, height=0.6)
        axes.errorbar(medians, range(len(names)), xerr=reach, fmt="none", ecolor=palette.ink, elinewidth=1, capsize=2)
        axes.set_xlabel("images/s")
        axes.grid(axis="y", visible=False)

    title = f"{of['network']}, {of['precision']}, {report['processes']} x {of['device']}"
    return Picture("peers", title, 0.6 + 0.3 * len(results), draw)
