"""Lay out panels and their scales."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator

# A cell of a heat map that has no number.
HATCHED = {"facecolor": "#F2F2F2", "edgecolor": "#BBBBBB", "hatch": "///", "linewidth": 0}


def new_figure(size: tuple[float, float]) -> Figure:
    """Make an empty figure (inches) whose parts make room for each other; needs no display."""
    figure = Figure(figsize=size, layout="constrained")
    figure.get_layout_engine().set(w_pad=0.1, h_pad=0.08)
    FigureCanvasAgg(figure)
    return figure


def settle(figure: Figure) -> None:
    """Lay the figure out for good: labels are placed in pixels, so the panels need their final positions first."""
    figure.draw_without_rendering()
    figure.set_layout_engine("none")


def prepare(axes: Axes, name: str, grid: str = "both") -> None:
    """Name a panel and give it its grid."""
    axes.set_label(name)
    axes.grid(color="#E4E4E4", linewidth=0.7, axis=grid)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def plain(value: float, _position: int | None = None) -> str:
    """Write a number without exponent: 12,000."""
    return f"{value:,.10g}"


def cell_grid(axes: Axes, columns: list[str], rows: list[str], high: int | None = None) -> None:
    """Set a grid of cells, one wide and one high, the first row on top; `high` rows of room, else as many as there are."""
    axes.set_xlim(0, len(columns))
    axes.set_ylim(high or len(rows), 0)
    axes.set_xticks(np.arange(len(columns)) + 0.5, columns)
    axes.set_yticks(np.arange(len(rows)) + 0.5, rows)
    axes.tick_params(length=0)
    axes.grid(False)
    axes.spines[:].set_visible(False)


def ink_on(shade: tuple[float, ...]) -> str:
    """Return the colour of text on a colour (RGB, 0 to 1): the one with the higher contrast (WCAG 2.2, 1.4.3)."""
    luminance = np.dot(np.power(shade[:3], 2.2), (0.2126, 0.7152, 0.0722))
    return "black" if luminance > 0.18 else "white"


def from_zero(axes: Axes, which: str) -> None:
    """Set a linear scale that begins at 0, with plain numbers."""
    getattr(axes, f"set_{which}lim")(**{{"x": "left", "y": "bottom"}[which]: 0})
    getattr(axes, f"{which}axis").set_major_formatter(FuncFormatter(plain))


def log_ticks(axes: Axes, which: str) -> None:
    """Set a log scale with plain numbers, and enough of them where the data span less than a decade."""
    getattr(axes, f"set_{which}scale")("log")
    axis = getattr(axes, f"{which}axis")
    low, high = axis.get_view_interval()
    by_span = ((10, (1, 1.5, 2, 3, 4, 5, 6, 8)), (1e4, (1, 2, 5)))
    subs = next((subs for span, subs in by_span if high / low < span), (1,))
    axis.set_major_locator(LogLocator(subs=subs, numticks=20))
    axis.set_major_formatter(FuncFormatter(plain))
    axis.set_minor_locator(NullLocator())


def level_axis(axes: Axes, kind: str, per: str = "") -> None:
    """Say what the load is; `per` follows it."""
    load = {"concurrency": "Concurrency (requests in flight)", "request-rate": "Request rate (requests/s)"}
    axes.set_xlabel(load[kind] + per)


def level_ticks(axes: Axes, levels: list[float], log: bool) -> None:
    """Set ticks at the levels measured, less those that would run into their neighbour."""
    if log:
        axes.set_xscale("log", base=2)
    else:
        from_zero(axes, "x")
    at = np.log2(levels) if log else np.array(levels)
    room = 0.045 * (at[-1] - (at[0] if log else 0))
    kept = [levels[-1]]
    for level, place in zip(reversed(levels[:-1]), reversed(at[:-1]), strict=True):
        if (np.log2(kept[-1]) if log else kept[-1]) - place >= room:
            kept.append(level)
    axes.xaxis.set_major_locator(FixedLocator(sorted(kept)))
    axes.xaxis.set_major_formatter(FuncFormatter(plain))
    axes.xaxis.set_minor_locator(NullLocator())
