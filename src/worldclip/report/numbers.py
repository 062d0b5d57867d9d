"""Numbers as tables, bars and charts write them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

count = "{:,.0f}".format  # 55,216


def percent(value: float) -> str:
    """Write a share (0 to 1) as percent: 12.3%.  Shares below 1% get two decimals, as chance is often small."""
    return f"{bare_percent(value)}%"


def bare_percent(value: float) -> str:
    """Write a share as percent without the sign, for tables that say so once: 12.3"""
    digits = 2 if 0 < value < 0.01 else 1
    return f"{100 * value:.{digits}f}"


def times(ratio: float) -> str:
    """Write a multiple: 0.4×, 7.3×, 45×, 1,200×."""
    return f"{ratio:,.0f}×" if ratio >= 10 else f"{ratio:.1f}×"


def short(value: float) -> str:
    """55,216 or 2.3M or 29.4B"""
    for limit, unit in ((1e9, "B"), (1e6, "M")):
        if abs(value) >= limit:
            return f"{value / limit:.1f}{unit}"
    return count(value)


def tick(value: float) -> str:
    """Label an axis tick: 2.5e-4, 0.5, 20, 5k, 1.2M.  No label is wider than a chart's margin."""
    if 0 < abs(value) < 0.01:
        return f"{value:.2e}".replace("e-0", "e-").replace(".00e", "e").replace("0e", "e")
    for limit, unit in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= limit:
            return f"{value / limit:g}{unit}"
    return f"{value:.4g}"


def interval(bounds: Sequence[float] | None, number: Callable[[float], str] = percent) -> str | None:
    """Write a confidence interval: 10.0% to 20.0%.  None stays None."""
    return None if bounds is None else " to ".join(map(number, bounds))


def duration(seconds: float) -> str:
    """Write a time in its largest fitting unit: 0.4 s, 35 s, 3.5 min, 2.1 h, 3.4 days."""
    for size, unit in ((86_400, "days"), (3_600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:,.1f} {unit}"
    return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
