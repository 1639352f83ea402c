"""Figures drawn with matplotlib: as PNG files, or as SVG that takes its colours from the HTML report."""

import io
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
from cycler import cycler
from matplotlib import figure as mpl_figure
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg

WIDTH = 4.5  # inches; text of 9 points then has about its own size on a phone


@dataclass(frozen=True)
class Palette:
    """Colours.

    Attributes:
        ink: colour of text and frames.
        grid: colour of grid lines.
        groups: colours of the groups, in their order.
    """

    ink: str
    grid: str
    groups: tuple[str, ...]


_PNG_COLOURS = "#0067a8 #c2500a #00805c #a3357a #6a5acd #8a6d00 #b3202c #4b6b1f"
PNG_PALETTE = Palette("#1b1f24", "#d5d9de", tuple(_PNG_COLOURS.split()))
# Placeholders that no figure uses otherwise; they are replaced by CSS variables, which depend on light or dark mode.
SVG_PALETTE = Palette("#010108", "#010109", tuple(f"#01010{digit}" for digit in range(len(PNG_PALETTE.groups))))
_CSS_VARIABLES = {SVG_PALETTE.ink: "var(--ink)", SVG_PALETTE.grid: "var(--grid)"} | {
    colour: f"var(--group-{index})" for index, colour in enumerate(SVG_PALETTE.groups)
}


@dataclass(frozen=True)
class Figure:
    """A figure that can be rendered as PNG and as SVG.

    Attributes:
        name: name of its PNG file without the suffix.
        title: caption.
        height: height in inches; the width is WIDTH.
        draw: draws onto the axes in the colours of the palette.
    """

    name: str
    title: str
    height: float
    draw: Callable[[Axes, Palette], None]

    def png(self) -> bytes:
        return self._render(PNG_PALETTE, "png", with_title=True)

    def svg(self) -> str:
        """An <svg> element without fixed size, coloured by the CSS variables of the document that contains it."""
        text = self._render(SVG_PALETTE, "svg", with_title=False).decode()
        text = re.sub(r"(?<=: )#01010\d", lambda match: _CSS_VARIABLES[match[0]], text)
        element = text[text.index("<svg") :]
        return re.sub(r'width="[\d.]+pt" height="[\d.]+pt"', f'role="img" aria-label="{self.title}"', element, count=1)

    def _render(self, palette: Palette, file_format: str, with_title: bool) -> bytes:
        style: Any = {
            "font.size": 9,
            "svg.fonttype": "none",
            "text.parse_math": False,  # class names may contain $
            "svg.hashsalt": self.name,
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
            "legend.fontsize": 8,
        }
        with mpl.rc_context(style), warnings.catch_warnings():
            figure = mpl_figure.Figure(figsize=(WIDTH, self.height + 0.25 * with_title), layout="constrained")
            FigureCanvasAgg(figure)
            axes = figure.add_subplot()
            self.draw(axes, palette)
            if with_title:
                axes.set_title(self.title, fontsize=10)
            buffer = io.BytesIO()
            # PNG files show boxes for characters that the font lacks; in SVG the browser chooses the font.
            warnings.filterwarnings("ignore", message="Glyph .* missing from font")
            metadata = {"Date": None} if file_format == "svg" else None
            figure.savefig(buffer, format=file_format, dpi=160, transparent=file_format == "svg", metadata=metadata)
        return buffer.getvalue()
