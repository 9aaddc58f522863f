"""Write numbers, intervals and shares as tables and sentences show them."""

import math


def interval_text(low: float, high: float) -> str:
    """Put the ends of an interval in brackets; nothing where there is none."""
    return "" if math.isnan(low) else f"[{number(low)}, {number(high)}]"


def with_interval_text(value: float, low: float, high: float, sign: str) -> str:
    """Put a value beside its interval: `+5.62 [4.90, 6.13]`."""
    if math.isnan(value):
        return "-"
    ends = "" if math.isnan(low) else f" [{signed_text(low, sign)}, {signed_text(high, sign)}]"
    return signed_text(value, sign) + ends


def signed_text(value: float, sign: str) -> str:
    """Format a number with its sign, where `sign` is `+`."""
    return f"{value:{sign},.{_decimals(value)}f}"


def band_text(low: float, high: float, interactivity: bool, ends: tuple[float, float] = (math.nan, math.nan)) -> str:
    """Put a band of latencies, ms, in words; as interactivity, tokens/s/user, it is turned around.

    Args:
        ends: the interval of `high`, NaN where it has none.
    """
    if interactivity:
        ends = (1000 / ends[1], 1000 / ends[0])
    interval = "" if math.isnan(ends[0]) else f" [{number(ends[0])}, {number(ends[1])}]"
    if interactivity:
        last = number(1000 / low)
        return f"{number(1000 / high)}{interval} to {last}" if math.isfinite(high) else f"up to {last}"
    return f"{number(low)} to {number(high)}{interval}" if math.isfinite(high) else f"from {number(low)}"


def share_text(value: float, low: float = math.nan, high: float = math.nan) -> str:
    """Put a share in percent: `+12% [3, 20]`, and whether that is noise."""
    if not math.isfinite(value):
        return "-" if math.isnan(value) else "alone"
    interval = "" if math.isnan(low) else f" [{100 * low:.0f}, {100 * high:.0f}]"
    return f"{100 * value:+.1f}%{interval}{' noise' if low <= 0 <= high else ''}"


def number(value: float) -> str:
    """Format four digits or so; a dash where there is no such value."""
    if math.isnan(value):
        return "-"
    return f"{value:,.{0 if value == int(value) else _decimals(value)}f}"


def _decimals(value: float) -> int:
    """As many as leave four digits or so, at most 2."""
    return sum(abs(value) < limit for limit in (1000, 100))
