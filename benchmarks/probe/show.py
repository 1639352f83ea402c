"""Prints the report as tables."""

from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.command import Report, print_environment

_KERNELS = 30  # rows


def show(report: Report) -> None:
    print_environment(report)
    side, peak = report["resolution"], report["machine"]
    print(
        f"{report['config']} at {side}x{side}, {report['precision']}, batches of {report['batch_size']}; "
        f"cuDNN {report['cudnn'] or 'not used'}"
    )
    bandwidth, flops = peak["bytes_per_second"] / 1e9, peak["flops_per_second"] / 1e12
    print(f"copy {bandwidth:,.1f} GB/s, matrix product {flops:,.2f} TFLOP/s")
    print("us: microseconds; in brackets: ratio to the time of moving the layer's bytes once")
    console = Console(width=120)
    console.print(convolutions(report["convolutions"]))
    console.print(others(report["others"]))
    console.print(kernels(report["kernels"]))
    console.print(sums(report["results"]))
    print(verdict(report["results"]))


def convolutions(layers: list[dict[str, Any]]) -> Table:
    table = _table("convolution", "count", "variant", "forward", "gradient of input", "gradient of weight")
    for layer in layers:
        for index, (variant, times) in enumerate(layer["variants"].items()):
            label = (layer["layer"], str(layer["count"])) if index == 0 else ("", "")
            cells = [_cell(times[name]) for name in ("forward", "input", "weight")]
            table.add_row(*label, variant, *cells, end_section=index == len(layer["variants"]) - 1)
    return table


def others(layers: list[dict[str, Any]]) -> Table:
    table = _table("channels and side", "count", *layers[0]["times"])
    for layer in layers:
        cells = [_cell(time) for time in layer["times"].values()]
        table.add_row(f"{layer['width']} at {layer['side']}", str(layer["count"]), *cells)
    return table


def kernels(rows: list[dict[str, Any]]) -> Table:
    launches, total = sum(row["launches"] for row in rows), sum(row["us"] for row in rows)
    table = _table(f"forward and backward: {launches:,.0f} kernels, {total / 1000:.2f} ms", "launches", "us")
    for row in rows[:_KERNELS]:
        table.add_row(row["name"], f"{row['launches']:g}", f"{row['us']:.1f}")
    return table


def sums(results: dict[str, dict[str, float]]) -> Table:
    table = _table("all layers of a kind", "ms of a step", "ratio", "ms saved by perfect kernels")
    for name, each in results.items():
        table.add_row(name, f"{each['us'] / 1000:.3f}", f"{each['ratio']:.2f}", f"{_saved(each):.3f}")
    return table


def verdict(results: dict[str, dict[str, float]]) -> str:
    """Whether kernels for the grouped convolutions are worthwhile: what they could save at most."""
    grouped = {name: each for name, each in results.items() if name.startswith("grouped")}
    if not grouped:
        return "no grouped convolutions"
    name = min(grouped, key=lambda name: grouped[name]["us"])
    return (
        f"{name}: {grouped[name]['ratio']:.2f} times the time of moving its bytes; perfect kernels would save "
        f"{_saved(grouped[name]):.3f} ms of a step"
    )


def _saved(each: dict[str, float]) -> float:
    return max(each["us"] - each["limit_us"], 0) / 1000


def _cell(time: dict[str, float]) -> str:
    return f"{time['us']:.1f} us ({time['ratio']:.2f})"


def _table(first: str, *others: str) -> Table:
    table = Table()
    table.add_column(first, overflow="fold")
    for heading in others:
        table.add_column(heading, justify="left" if heading == "variant" else "right")
    return table
