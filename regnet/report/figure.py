"""Figures drawn with matplotlib: as PNG files, or as SVG that takes its colours from the HTML report."""

import contextlib
import io
import json
import math
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
from cycler import cycler
from markupsafe import escape
from matplotlib import figure as mpl_figure
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from regnet.report.names import printable

WIDTH = 4.5  # inches; text of 10 points then has about its own size on a phone
MIN_TEXT = 7.0  # pixels in the HTML report
_MAX_SCALE = 1.35  # pixels of the HTML report for a point of the figure, unless it needs the width of the report
MARKERS = "os^Dv<Pp"  # of the groups: lines can also be told apart without colours


@dataclass(frozen=True)
class Palette:
    """Colours.

    Attributes:
        ink: colour of text and frames.
        grid: colour of grid lines.
        groups: colours of the groups, in their order.
        muted: colour of what is less important, such as runs beyond the number of colours.
        stand_alone: the figure is seen outside of the report, so it says itself which colour is which group.
    """

    ink: str
    grid: str
    groups: tuple[str, ...]
    muted: str
    stand_alone: bool

    def group(self, index: int | None) -> str:
        return self.muted if index is None else self.groups[index]


# Chosen so that they also differ for readers with deuteranopia, protanopia or tritanopia, and contrast with the
# background by at least 3 : 1 (WCAG 2.2, 1.4.11). The dark counterparts are in report.css.
_PNG_COLOURS = "#0d54a3 #d66400 #239c7f #b36eda #5e073e #52560a #341b76 #8e5167"
PNG_PALETTE = Palette("#1b1f24", "#d5d9de", tuple(_PNG_COLOURS.split()), "#868e98", stand_alone=True)
# Placeholders that no figure uses otherwise; they are replaced by CSS variables, which depend on light or dark mode.
SVG_PALETTE = Palette(
    "#010108",
    "#010109",
    tuple(f"#01010{digit}" for digit in range(len(PNG_PALETTE.groups))),
    "#01010a",
    stand_alone=False,
)
_CSS_VARIABLES = {
    SVG_PALETTE.ink: "var(--ink)",
    SVG_PALETTE.grid: "var(--grid)",
    SVG_PALETTE.muted: "var(--muted)",
} | {colour: f"var(--group-{index})" for index, colour in enumerate(SVG_PALETTE.groups)}


@dataclass(frozen=True)
class Figure:
    """A figure that can be rendered as PNG and as SVG.

    Attributes:
        name: name of its PNG file without the suffix.
        title: caption.
        height, width: in inches.
        smallest_text: font size in points.
        draw: draws onto the axes in the colours of the palette.
        values: what report.js shows for the position of the pointer.
        log_scale: whether there is also a variant with a logarithmic y axis.
        smoothing: whether report.js may smooth the lines.
    """

    name: str
    title: str
    height: float
    draw: Callable[[Axes, Palette], None]
    width: float = WIDTH
    smallest_text: float = 9
    values: Mapping[str, Any] | None = None
    log_scale: bool = False
    smoothing: bool = False

    @property
    def is_large(self) -> bool:
        """Whether it needs the width of the report."""
        return self.width > 6

    def png(self) -> bytes:
        with mpl.rc_context(_style(PNG_PALETTE)):
            return png_file(self._drawn(PNG_PALETTE))

    def svgs(self) -> list[str]:
        """Inline <svg> elements: with a linear and, if there is one, with a logarithmic y axis."""
        return [self.svg(), self.svg(log=True)] if self.log_scale else [self.svg()]

    def svg(self, log: bool = False) -> str:
        """An <svg> element without fixed size, coloured by the CSS variables of the document that contains it."""
        with mpl.rc_context({**_style(SVG_PALETTE), **_SVG_STYLE, "svg.hashsalt": f"{self.name} {log}"}):
            figure = self._drawn(SVG_PALETTE, log)
            content = _svg_file(figure)
        text = re.sub(r"(?<=: )#01010[0-9a]", lambda match: _CSS_VARIABLES[match[0]], content)
        element = text[text.index("<svg") :]
        # An id must be unique in a document. Those of markers and clipping paths, which are referred to, are hashes.
        element = re.sub(r' id="(?:[a-zA-Z]+[0-9]*_)+[0-9]+"', "", element)
        element = re.sub(r' id="(series|best|other)"', r' class="\1"', element)
        attributes = {
            "role": "img",
            "aria-label": self.title + (", logarithmic" if log else ""),
            "class": "log" if log else "linear",
            "style": f"max-width: {self._max_width()}; min-width: {self._min_width()}px",
            **_axes_attributes(figure),
        }
        described = " ".join(f'{name}="{escape(value)}"' for name, value in attributes.items())
        return re.sub(r'width="[\d.]+pt" height="[\d.]+pt"', lambda _: described, element, count=1)

    def _max_width(self) -> str:
        return "none" if self.is_large else f"{_MAX_SCALE * 72 * self.width:.0f}px"

    def _min_width(self) -> int:
        """In pixels. On a phone, larger figures scroll instead of becoming illegible."""
        return 0 if self.width <= WIDTH else math.ceil(72 * self.width * MIN_TEXT / self.smallest_text)

    def values_json(self) -> str:
        """JSON that is safe within a <script> element."""
        return json.dumps(self.values, separators=(",", ":")).replace("<", "\\u003c")

    def _drawn(self, palette: Palette, log: bool = False) -> mpl_figure.Figure:
        height = self.height + 0.25 * palette.stand_alone
        figure = mpl_figure.Figure(figsize=(self.width, height), layout="constrained")
        axes = figure.add_subplot()
        self.draw(axes, palette)
        if log:
            _scale_logarithmically(axes)
        if palette.stand_alone:
            axes.set_title(printable(self.title), fontsize=10)
        return figure


def png_file(figure: mpl_figure.Figure, dpi: int = 160) -> bytes:
    buffer = io.BytesIO()
    with _any_characters():
        FigureCanvasAgg(figure).print_figure(buffer, format="png", dpi=dpi)
    return buffer.getvalue()


def _svg_file(figure: mpl_figure.Figure) -> str:
    """Transparent. Calls the canvas directly: savefig would draw and lay out everything twice."""
    buffer = io.StringIO()
    with _any_characters():
        FigureCanvasSVG(figure).print_svg(buffer, metadata={"Date": None})
    return buffer.getvalue()


@contextlib.contextmanager
def _any_characters() -> Iterator[None]:
    """PNG files show boxes for characters that the font lacks; in SVG the browser chooses the font."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        yield


def _axes_attributes(figure: mpl_figure.Figure) -> dict[str, str]:
    """The rectangle of the axes in units of the SVG, and the limits of the x axis."""
    axes = figure.axes[0]
    box, (width, height) = axes.get_position(), 72 * figure.get_size_inches()
    rectangle = (box.x0 * width, (1 - box.y1) * height, box.x1 * width, (1 - box.y0) * height)
    return {
        "data-axes": " ".join(f"{value:.2f}" for value in rectangle),
        "data-limits": " ".join(f"{value:.6g}" for value in axes.get_xlim()),
    }


def _scale_logarithmically(axes: Axes) -> None:
    axes.set_yscale("log", nonpositive="mask")
    axes.set_autoscaley_on(True)
    axes.autoscale_view()
    # matplotlib's own labels are powers in its mathematical notation, which is switched off.
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


_SVG_STYLE: Any = {
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "svg.fonttype": "none",  # text stays text
    "path.simplify": False,  # report.js needs every point of a line
}


def _style(palette: Palette) -> Any:
    return {
        "font.size": 10,
        "text.parse_math": False,  # class names may contain $
        "text.color": palette.ink,
        "axes.edgecolor": palette.grid,
        "axes.labelcolor": palette.ink,
        "axes.grid": True,
        "axes.axisbelow": True,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.prop_cycle": cycler(color=palette.groups),
        "grid.color": palette.grid,
        "grid.linewidth": 0.6,
        "xtick.color": palette.grid,
        "ytick.color": palette.grid,
        "xtick.labelcolor": palette.ink,
        "ytick.labelcolor": palette.ink,
        "legend.frameon": False,
        "legend.fontsize": 9,
    }
