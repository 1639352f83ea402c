"""The report as tables of 80 columns."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.command import Report, print_place
from benchmarks.scaling.model import ASSUMED


def show(report: Report) -> None:
    """Where and what was measured, both kinds of scaling, the model and what it supposes."""
    console = Console(highlight=False)
    print_place(report)
    side = report["resolution"]
    console.print(
        f"{report['config']} at {side}x{side}, {report['precision']}, gradients of {report['gradient_bytes'] / 1e6:.2f}"
        f" MB"
    )
    console.print(
        "processes x threads of torch: "
        + ", ".join(f"{count} x {threads}" for count, threads in report["threads"].items())
    )
    console.print(f"rounds: {report['rounds']}, of {report['seconds']:g} s for each figure")
    most = "with the same cores" if report["shared"] else "times processes"
    console.print(f"efficiency: images/s over those of one process, {most}")
    console.print(
        f"strong scaling: {report['batch_size']} images a step in all; ms", scaling(report["strong"]), sep="\n"
    )
    console.print(
        f"weak scaling: {report['weak'][0]['images']} images for each process; ms", scaling(report["weak"]), sep="\n"
    )
    compute = report["compute"]
    console.print(f"compute of one process: {_ms(compute['fixed'])} ms + {_ms(compute['per_image'])} ms an image")
    if report["measured_link"]:
        console.print(f"links: {_link(report['measured_link'])}")
        console.print("all-reduces, measured > those of a ring, ms", messages(report["messages"]), sep="\n")
        console.print("steps, measured > foretold, ms", check(report["check"]), sep="\n")
    if not report["cluster"]:
        console.print("no cluster foretold: two processes, or --latency and --bandwidth, would tell what its links are")
        return
    unit = "a machine like this one" if report["shared"] else "a GPU"
    console.print(f"foretold: each process has {unit}, links: {_link(report['link'])}")
    console.print(cluster(report["cluster"]))
    console.print("foretold efficiency of weak scaling, on so many processes", variants(report["variants"]), sep="\n")
    console.print("The model supposes:")
    for line in (*ASSUMED, *supposed(report)):
        console.print(f"- {line}")


def supposed(report: Report) -> list[str]:
    """What the model supposes here, beside what it always does."""
    lines = []
    if report["shared"]:
        lines.append("On a CPU nothing hides the exchange, since the cores that exchange are those that compute.")
        lines.append("In the table of steps, all processes together compute as fast as one that has all cores.")
    else:
        lines.append("The exchange goes on beside the backward pass and does not slow it.")
    if report["shared"] or report["deterministic"]:
        lines.append(
            "From three processes on this trainer's ranks gather all gradients, in place of a ring: p-1 messages of n "
            "bytes. Adding them takes no time."
        )
    if report["link"] == report["measured_link"]:
        lines.append("The cluster's links are like those between the processes of this machine: no network's.")
    return lines


def scaling(rows: Sequence[Mapping[str, Any]]) -> Table:
    table = _table("proc.", "step", "compute", "visible", "alone", "images/s", "eff.", "min..max")
    for row in rows:
        parts = [_ms(row[name]["median"]) if name in row else "" for name in ("compute", "visible", "alone")]
        reached = row["efficiency"]
        table.add_row(
            str(row["processes"]),
            _ms(row["step"]["median"]),
            *parts,
            _rate(row["rate"]["median"]),
            f"{reached['median']:.3f}",
            f"{reached['lowest']:.2f}..{reached['highest']:.2f}",
        )
    return table


def check(rows: Sequence[Mapping[str, Any]]) -> Table:
    table = _table("proc.", "images")
    for heading in ("compute", "visible", "step", "error"):
        table.add_column(heading, justify="right")
    for row in rows:
        pairs = [_pair(row[name]) for name in ("compute", "visible", "step")]
        table.add_row(str(row["processes"]), str(row["images"]), *pairs, f"{row['error']:+.1%}")
    return table


def messages(rows: Sequence[Mapping[str, Any]]) -> Table:
    """As many numbers of processes as there is room for, the largest ones."""
    counts = sorted({row["processes"] for row in rows})[-4:]
    table = _table("KiB", *(f"{n} proc." for n in counts))
    for size in sorted({row["bytes"] for row in rows}):
        told = {row["processes"]: _pair(row) for row in rows if row["bytes"] == size}
        table.add_row(f"{size // 1024:,}", *(told[count] for count in counts))
    return table


def cluster(rows: Sequence[Mapping[str, Any]]) -> Table:
    table = _table("proc.", "weak ms", "images/s", "eff.", "strong ms", "images/s", "eff.")
    for row in rows:
        both = [
            text
            for of in (row["weak"], row["strong"])
            for text in ((_ms(of["step"]), _rate(of["rate"]), f"{of['efficiency']:.3f}") if of else ("", "", ""))
        ]
        table.add_row(str(row["processes"]), *both)
    return table


def variants(rows: Sequence[Mapping[str, Any]]) -> Table:
    counts = rows[0]["efficiency"]
    table = _table("", *counts)
    table.columns[0].justify = "left"
    for row in rows:
        table.add_row(row["name"], *(f"{reached:.3f}" for reached in row["efficiency"].values()))
    return table


def _table(*headings: str) -> Table:
    table = Table()
    for heading in headings:
        table.add_column(heading, justify="right")
    return table


def _link(link: Mapping[str, float]) -> str:
    bandwidth = f"{1e-9 / link['per_byte']:.3g} GB/s" if link["per_byte"] else "no limit to be seen"
    return f"{link['latency'] * 1e6:.3g} us, {bandwidth}"


def _pair(both: Mapping[str, float]) -> str:
    return f"{_ms(both['measured'])} > {_ms(both['predicted'])}"


def _ms(seconds: float) -> str:
    value = seconds * 1000
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def _rate(rate: float) -> str:
    return f"{rate:,.0f}" if rate >= 1000 else f"{rate:.1f}"
