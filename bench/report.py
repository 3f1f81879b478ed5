"""One shape for every figure: what was measured, its limit or peer, and the ratio, in the same run."""

from __future__ import annotations

import sys


def figure(
    name: str, measured: float, unit: str, *, at_least: float | None = None, at_most: float | None = None
) -> None:
    """Print a line. A ratio of 1 or more is good, whichever way the limit points."""
    line = f"{name:<62} {measured:>12,.1f} {unit:<9}"
    if at_least is not None:
        ratio = measured / at_least
        line += f" limit ≥ {at_least:>10,.0f}   ratio {ratio:6.2f} {'ok' if ratio >= 1 else 'MISSED'}"
    elif at_most is not None:
        ratio = at_most / measured if measured else float("inf")
        line += f" limit ≤ {at_most:>10,.1f}   ratio {ratio:6.2f} {'ok' if ratio >= 1 else 'MISSED'}"
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def note(text: str) -> None:
    """A line beside the figures."""
    sys.stdout.write(f"  {text}\n")
    sys.stdout.flush()
