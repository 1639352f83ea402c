"""Prints the report as tables of 80 columns."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.command import Report, print_environment
from benchmarks.scaling.model import ASSUMPTIONS


def show(report: Report) -> None:
    """Prints the environment, both kinds of scaling, the model's predictions and its assumptions."""
    console = Console(highlight=False)
    print_environment(report)
    side = report["resolution"]
    console.print(
        f"{report['config']} at {side}x{side}, {report['precision']}, gradients of {report['gradient_bytes'] / 1e6:.2f}"
        f" MB"
    )
    console.print(
        "processes x torch threads: "
        + ", ".join(f"{count} x {threads}" for count, threads in report["threads"].items())
    )
    console.print(f"{report['rounds']} rounds of {report['seconds']:g} s per measurement")
    ideal = "one process on the same cores" if report["shared"] else "one process times the number of processes"
    console.print(f"efficiency: images/s relative to {ideal}")
    console.print(f"strong scaling: {report['batch_size']} images per step; ms", scaling(report["strong"]), sep="\n")
    console.print(
        f"weak scaling: {report['weak'][0]['images']} images per process; ms", scaling(report["weak"]), sep="\n"
    )
    compute = report["compute"]
    console.print(f"compute of one process: {in_ms(compute['fixed'])} ms + {in_ms(compute['per_image'])} ms per image")
    if report["measured_link"]:
        console.print(f"links: {_link(report['measured_link'])}")
        console.print("all-reduces, measured > predicted for a ring, ms", messages(report["messages"]), sep="\n")
        console.print("steps, measured > predicted, ms", check(report["check"]), sep="\n")
    if not report["cluster"]:
        console.print("no cluster predicted: this needs two processes, or --latency and --bandwidth")
        return
    unit = "a machine like this one" if report["shared"] else "a GPU"
    console.print(f"prediction: each process has {unit}; links: {_link(report['links']['local'])}")
    if report["links"]["network"]:
        per_node = report["links"]["per_node"]
        console.print(f"nodes of {per_node}; network between them: {_link(report['links']['network'])}")
    console.print(cluster(report["cluster"]))
    console.print(
        "predicted efficiency of weak scaling, by number of processes", variants(report["variants"]), sep="\n"
    )
    console.print("Assumptions of the model:")
    for line in (*ASSUMPTIONS, *further_assumptions(report)):
        console.print(f"- {line}")


def further_assumptions(report: Report) -> list[str]:
    """Assumptions that depend on the setting."""
    lines = []
    if report["shared"]:
        lines.append("On a CPU no communication is hidden, because the same cores compute and communicate.")
        lines.append("In the table of steps, all processes together compute as fast as one process with all cores.")
    else:
        lines.append("Communication overlaps with the backward pass and does not slow it.")
    if any(row["name"] == "a ring, not rank order" for row in report["variants"]):
        lines.append(
            "With three or more processes this trainer's ranks gather all gradients instead of using a ring: p-1 "
            "messages of n bytes. Adding them takes no time."
        )
    if report["links"]["local"] == report["measured_link"] and not report["links"]["network"]:
        lines.append("The cluster's links are those between processes of this machine; there is no network.")
    return lines


def scaling(rows: Sequence[Mapping[str, Any]]) -> Table:
    table = new_table("proc.", "step", "compute", "exposed", "alone", "images/s", "eff.", "min..max")
    for row in rows:
        parts = [in_ms(row[name]["median"]) if name in row else "" for name in ("compute", "exposed", "alone")]
        spread = row["efficiency"]
        table.add_row(
            str(row["processes"]),
            in_ms(row["step"]["median"]),
            *parts,
            in_images(row["rate"]["median"]),
            f"{spread['median']:.3f}",
            f"{spread['lowest']:.2f}..{spread['highest']:.2f}",
        )
    return table


def check(rows: Sequence[Mapping[str, Any]]) -> Table:
    table = new_table("proc.", "images")
    for heading in ("compute", "exposed", "step", "error"):
        table.add_column(heading, justify="right")
    for row in rows:
        pairs = [_pair(row[name]) for name in ("compute", "exposed", "step")]
        table.add_row(str(row["processes"]), str(row["images"]), *pairs, f"{row['error']:+.1%}")
    return table


def messages(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Columns for the largest numbers of processes, as many as fit."""
    counts = sorted({row["processes"] for row in rows})[-4:]
    table = new_table("KiB", *(f"{n} proc." for n in counts))
    for size in sorted({row["bytes"] for row in rows}):
        cells = {row["processes"]: _pair(row) for row in rows if row["bytes"] == size}
        table.add_row(f"{size // 1024:,}", *(cells[count] for count in counts))
    return table


def cluster(rows: Sequence[Mapping[str, Any]]) -> Table:
    table = new_table("proc.", "weak ms", "images/s", "eff.", "strong ms", "images/s", "eff.")
    for row in rows:
        both = [
            text
            for kind in (row["weak"], row["strong"])
            for text in (
                (in_ms(kind["step"]), in_images(kind["rate"]), f"{kind['efficiency']:.3f}") if kind else ("", "", "")
            )
        ]
        table.add_row(str(row["processes"]), *both)
    return table


def variants(rows: Sequence[Mapping[str, Any]]) -> Table:
    counts = rows[0]["efficiency"]
    table = new_table("", *counts)
    table.columns[0].justify = "left"
    for row in rows:
        table.add_row(row["name"], *(f"{value:.3f}" for value in row["efficiency"].values()))
    return table


def new_table(*headings: str) -> Table:
    table = Table()
    for heading in headings:
        table.add_column(heading, justify="right")
    return table


def _link(link: Mapping[str, float]) -> str:
    bandwidth = f"{1e-9 / link['per_byte']:.3g} GB/s" if link["per_byte"] else "no measurable limit"
    return f"{link['latency'] * 1e6:.3g} us, {bandwidth}"


def _pair(values: Mapping[str, float]) -> str:
    return f"{in_ms(values['measured'])} > {in_ms(values['predicted'])}"


def in_ms(seconds: float) -> str:
    value = seconds * 1000
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def in_images(rate: float) -> str:
    return f"{rate:,.0f}" if rate >= 1000 else f"{rate:.1f}"
