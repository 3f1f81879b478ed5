"""TBEL made into JavaScript. What both languages mean: reference rule-engine §6.2, §6.3."""

from gateway.rules.tbel.translate import Translated, translated

__all__ = ["Translated", "translated"]
