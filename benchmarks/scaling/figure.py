"""Figure of the efficiency over processes: measurements as points, predictions as lines."""

from matplotlib.axes import Axes

from benchmarks.command import Report
from regnet.report.figure import Figure, Palette


def figure(report: Report) -> Figure:
    source = "measured on the same cores" if report["shared"] else "measured"

    def draw(axes: Axes, palette: Palette) -> None:
        for kind, colour in zip(("strong", "weak"), palette.groups, strict=False):
            predicted = [row for row in report["cluster"] if row[kind]]
            axes.plot(
                [row["processes"] for row in predicted],
                [row[kind]["efficiency"] for row in predicted],
                color=colour,
                label=f"{kind}, predicted",
            )
            spreads = [row["efficiency"] for row in report[kind]]
            error_bars = [
                [spread["median"] - spread["lowest"] for spread in spreads],
                [spread["highest"] - spread["median"] for spread in spreads],
            ]
            axes.errorbar(
                report["processes"],
                [spread["median"] for spread in spreads],
                yerr=error_bars,
                fmt="o",
                markersize=4,
                color=colour,
                capsize=2,
                label=f"{kind}, {source}",
            )
        counts = sorted({*report["processes"], *(row["processes"] for row in report["cluster"])})
        axes.set_xscale("log", base=2)
        axes.set_xticks(counts[:: 1 + len(counts) // 8], labels=[str(n) for n in counts[:: 1 + len(counts) // 8]])
        axes.set_ylim(bottom=0)
        axes.set_xlabel("processes")
        axes.set_ylabel("efficiency")
        axes.legend()

    return Figure("scaling", f"{report['config']}, {report['precision']}, {report['device_type']}", 3.0, draw)
