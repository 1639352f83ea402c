"""Prints the report as tables of 80 columns."""

from rich.console import Console
from rich.table import Table

from benchmarks.command import Report, print_environment, print_table

LABELS = {
    "trainer": "trainer",
    "resident": "steps on one resident batch",
    "ratio": "ratio (goal: at least 0.97)",
    "apart": "parts timed separately",
    "alone": "the same without gradient exchange",
}


def show(report: Report) -> None:
    print_environment(report)
    side, size = report["resolution"], report["batch_size"]
    print(
        f"{report['config']} at {side}x{side}, {report['precision']}, batches of {size} over {report['processes']} x "
        f"{report['threads']} threads"
    )
    print(f"{report['rounds']} rounds of {report['steps']} steps per variant, without warm-up")
    print_table({name: LABELS[name] for name in LABELS if name in report["results"]}, report["results"])
    Console().print(parts(report))
    print(kernels(report["kernels"]))
    print(waits(report["host_waits"]))
    print(relative_to_peak(report))


def parts(report: Report) -> Table:
    table = Table()
    table.add_column("part of a step")
    for heading in ("ms", "min..max", "fraction"):
        table.add_column(heading, justify="right")
    milliseconds = report["milliseconds"]
    total = sum(spread["median"] for spread in milliseconds.values())
    for name, spread in milliseconds.items():
        extent = f"{spread['lowest']:.2f}..{spread['highest']:.2f}"
        table.add_row(name, f"{spread['median']:.2f}", extent, f"{spread['median'] / total:.1%}")
    return table


def kernels(counts: dict[str, int]) -> str:
    by_part = ", ".join(f"{part} {count:,}" for part, count in counts.items() if part != "total")
    return f"kernels a step: {counts['total']:,} ({by_part})"


def waits(counts: dict[str, int] | None) -> str:
    if counts is None:
        return "host waits: not counted on a CPU with several processes or a compiled model"
    calls = ", ".join(f"{count} x {name}" for name, count in counts.items())
    return f"host waits between two reports: {calls or 'none'}"


def relative_to_peak(report: Report) -> str:
    """FLOP/s and memory bandwidth of steps on one resident batch, as a percentage of the hardware's peak rates."""
    machine, work = report["machine"], report["work"]
    seconds = report["batch_size"] / report["results"]["resident"]["median"]
    flops, traffic = work["flops"] / seconds, work["bytes"] / seconds
    peak_flops, peak_bandwidth = machine["flops_per_second"], machine["bytes_per_second"]
    return (
        f"a step of one process: {work['flops'] / 1e9:,.1f} GFLOP, {flops / 1e9:,.1f} GFLOP/s "
        f"({flops / peak_flops:.1%} of a matrix product's {peak_flops / 1e9:,.0f})\n"
        f"memory traffic: {work['bytes'] / 1e9:,.2f} GB, {traffic / 1e9:,.1f} GB/s "
        f"({traffic / peak_bandwidth:.1%} of a copy's {peak_bandwidth / 1e9:,.1f})"
    )
