"""The comparison as tables of 80 columns and as a figure."""

from collections.abc import Mapping
from typing import Any

from matplotlib.axes import Axes
from rich.console import Console
from rich.table import Table

from benchmarks.command import Report, print_environment
from benchmarks.peers.roster import OURS, PEERS, Peer
from regnet.report.figure import Figure, Palette


def show(report: Report) -> None:
    """Prints the environment, the settings, the throughput with ratios, and times, memory and losses."""
    print_environment(report)
    print(", ".join(f"{name} {version}" for name, version in report["versions"].items()))
    settings = report["settings"]
    side, epochs, device = settings["resolution"], settings["epochs"], settings["device"]
    print(
        f"model {settings['network']}, {side}x{side}, {settings['precision']}, {report['processes']} x {device}, "
        f"{report['threads']} threads, {settings['workers']} workers"
    )
    print(
        f"{report['rounds']} rounds of {epochs} epochs of {settings['steps']} steps "
        f"of {settings['batch_size']} images\nimages/s exclude the first epoch"
    )
    console = Console()
    console.print(rates(report["results"]))
    console.print(costs(report["results"], epochs))
    for name, result in report["results"].items():
        if not result["learned"]:
            print(f"the loss of {PEERS[name].label} did not decrease")


def rates(results: Mapping[str, Any]) -> Table:
    table = Table()
    table.add_column("images/s")
    for heading in ("median", "min..max", "speed-up", "min..max"):
        table.add_column(heading, justify="right")
    for name, result in results.items():
        rate, ratio = result["images_per_second"], result["ours_over_it"]
        digits = ",.0f" if rate["lowest"] >= 1000 else ".1f"
        ratio_cells = ("", "") if name == OURS.name else (f"{ratio['median']:.2f}", _range(ratio, ".2f"))
        table.add_row(PEERS[name].label, format(rate["median"], digits), _range(rate, digits), *ratio_cells)
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


def figure(report: Report) -> Figure:
    """Images/s as bars, with error bars from the slowest to the fastest round."""
    results = report["results"]
    settings = report["settings"]

    def draw(axes: Axes, palette: Palette) -> None:
        names = list(reversed(results))
        spreads = [results[name]["images_per_second"] for name in names]
        medians = [spread["median"] for spread in spreads]
        error_bars = [
            [spread["median"] - spread["lowest"] for spread in spreads],
            [spread["highest"] - spread["median"] for spread in spreads],
        ]
        colours = [colour(PEERS[name], palette) for name in names]
        axes.barh([PEERS[name].label for name in names], medians, color=colours, height=0.6)
        positions = range(len(names))
        axes.errorbar(medians, positions, xerr=error_bars, fmt="none", ecolor=palette.ink, elinewidth=1, capsize=2)
        axes.set_xlabel("images/s")
        axes.grid(axis="y", visible=False)

    title = f"{settings['network']}, {settings['precision']}, {report['processes']} x {settings['device']}"
    return Figure("peers", title, 0.6 + 0.3 * len(results), draw)
