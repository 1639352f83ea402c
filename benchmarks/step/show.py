"""A step as tables of 80 columns."""

from rich.console import Console
from rich.table import Table

from benchmarks.command import Report, print_environment, print_table

LABELS = {
    "trainer": "the trainer, as it trains",
    "resident": "its steps on one resident batch",
    "ratio": "ratio (aim: 0.97 or more)",
    "apart": "its parts one by one",
    "alone": "the same, gradients not exchanged",
}


def show(report: Report) -> None:
    print_environment(report)
    side, size = report["resolution"], report["batch_size"]
    print(
        f"{report['config']} at {side}x{side}, {report['precision']}, batches of {size} over {report['processes']} x "
        f"{report['threads']} threads"
    )
    print(f"rounds: {report['rounds']}, of {report['steps']} steps for each side; the first turns left out")
    print_table({name: LABELS[name] for name in LABELS if name in report["results"]}, report["results"])
    Console().print(parts(report))
    print(waits(report["host_waits"]))
    print(against_the_machine(report))


def parts(report: Report) -> Table:
    table = Table()
    table.add_column("part of a step")
    for heading in ("ms", "min..max", "share"):
        table.add_column(heading, justify="right")
    found = report["milliseconds"]
    whole = sum(spread["median"] for spread in found.values())
    for name, spread in found.items():
        extent = f"{spread['lowest']:.2f}..{spread['highest']:.2f}"
        table.add_row(name, f"{spread['median']:.2f}", extent, f"{spread['median'] / whole:.1%}")
    return table


def waits(found: dict[str, int] | None) -> str:
    if found is None:
        return "host waits: not counted on a CPU for several processes or a compiled network"
    told = ", ".join(f"{count} x {name}" for name, count in found.items())
    return f"host waits between two reports: {told or 'none'}"


def against_the_machine(report: Report) -> str:
    """How much of the machine's two rates a step on one resident batch uses."""
    machine, work = report["machine"], report["work"]
    seconds = report["batch_size"] / report["results"]["resident"]["median"]
    flops, traffic = work["flops"] / seconds, work["bytes"] / seconds
    return (
        f"a step of one process: {work['flops'] / 1e9:,.1f} GFLOP, {flops / 1e9:,.1f} GFLOP/s, "
        f"{flops / machine['flops_per_second']:.1%} of matrix products' {machine['flops_per_second'] / 1e9:,.0f}\n"
        f"{work['bytes'] / 1e9:,.2f} GB of traffic, {traffic / 1e9:,.1f} GB/s, "
        f"{traffic / machine['bytes_per_second']:.1%} of copies' {machine['bytes_per_second'] / 1e9:,.1f}"
    )
