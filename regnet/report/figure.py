"""A picture drawn with matplotlib: as a PNG file, or as SVG that takes its colours from the page it is put into."""

import io
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

WIDTH = 4.5  # inches, at which a phone shows text of 9 points at about its own size


@dataclass(frozen=True)
class Palette:
    """Colours: of text and frames, of grid lines, of the groups one after another."""

    ink: str
    grid: str
    groups: tuple[str, ...]


_PRINTED = "#0067a8 #c2500a #00805c #a3357a #6a5acd #8a6d00 #b3202c #4b6b1f"
PRINT = Palette("#1b1f24", "#d5d9de", tuple(_PRINTED.split()))
# Colours that no picture uses, in whose place the page puts its own, light or dark.
PAGE = Palette("#010108", "#010109", tuple(f"#01010{digit}" for digit in range(len(PRINT.groups))))
_VARIABLES = {PAGE.ink: "var(--ink)", PAGE.grid: "var(--grid)"} | {
    colour: f"var(--group-{index})" for index, colour in enumerate(PAGE.groups)
}


@dataclass(frozen=True)
class Picture:
    """Something to draw.

    Attributes:
        name: of its PNG file, without the suffix.
        title: what it shows.
        height: inches; it is as wide as all others.
        draw: onto these axes, in these colours.
    """

    name: str
    title: str
    height: float
    draw: Callable[[Axes, Palette], None]

    def png(self) -> bytes:
        return self._render(PRINT, "png", titled=True)

    def svg(self) -> str:
        """To be put into a page, as wide as there is room, with its colours as the page's variables."""
        text = self._render(PAGE, "svg", titled=False).decode()
        text = re.sub(r"(?<=: )#01010\d", lambda found: _VARIABLES[found[0]], text)
        whole = text[text.index("<svg") :]
        return re.sub(r'width="[\d.]+pt" height="[\d.]+pt"', f'role="img" aria-label="{self.title}"', whole, count=1)

    def _render(self, palette: Palette, kind: str, titled: bool) -> bytes:
        style: Any = {
            "font.size": 9,
            "svg.fonttype": "none",
            "text.parse_math": False,  # a class may be called anything
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
            figure = Figure(figsize=(WIDTH, self.height + 0.25 * titled), layout="constrained")
            FigureCanvasAgg(figure)
            axes = figure.add_subplot()
            self.draw(axes, palette)
            if titled:
                axes.set_title(self.title, fontsize=10)
            buffer = io.BytesIO()
            # A file gets boxes for letters that its font lacks; the page has its reader's fonts.
            warnings.filterwarnings("ignore", message="Glyph .* missing from font")
            metadata = {"Date": None} if kind == "svg" else None
            figure.savefig(buffer, format=kind, dpi=160, transparent=kind == "svg", metadata=metadata)
        return buffer.getvalue()
