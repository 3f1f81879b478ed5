"""JavaScript that translated scripts stand on: operators and methods, functions, dates."""

from importlib import resources
from typing import Final

_HERE: Final = resources.files("gateway.rules.tbel")

PARTS: Final = tuple(
    _HERE.joinpath(name).read_text(encoding="utf-8") for name in ("runtime.js", "functions.js", "dates.js", "fields.js")
)
"""To be run in this order, in a context of their own."""
