"""The declaration of a configuration key: default, comment and valid values."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

__all__ = ["Key"]

_INT_LIMIT = 2**31  # torch and numpy take larger sizes in some places only
_COUNTS = {0: "a list of", 2: "two", 3: "three", 4: "four"}


class Key(NamedTuple):
    """A configuration key. Its type is that of the default; infinity and NaN are never valid.

    Attributes:
        default: the value where no configuration sets it.
        comment: what it means; errors show it.
        choices: the only valid values.
        low: the smallest valid number; in a list, of each. None: ``octvideo.config.checks`` looks at the value.
        high: the largest valid number.
        below: numbers must be smaller than this.
        odd: numbers must be odd.
        lengths: valid lengths of the list; () = any.
        inner: the list holds lists of at least this many numbers.
    """

    default: Any
    comment: str
    choices: tuple[Any, ...] = ()
    low: float | None = 0
    high: float = math.inf
    below: float = math.inf
    odd: bool = False
    lengths: tuple[int, ...] = ()
    inner: int | None = None

    def requirement(self, value: Any) -> str | None:
        """Return what ``value``, which has the right type, must be and is not; None where it is valid."""
        if self.choices:
            return None if value in self.choices else f"one of {', '.join(map(str, self.choices))}"
        if isinstance(value, (bool, str)) or self.low is None:
            return None
        if not self._fits(value):
            return self._bounds(isinstance(value, list))
        if self.high == math.inf and any(type(n) is int and n >= _INT_LIMIT for n in self._numbers(value)):
            return "below 2^31"
        return None

    @property
    def bounds(self) -> str:
        """What a valid number or list is; "" where ``octvideo.config.checks`` looks at the value."""
        return "" if self.low is None else self._bounds(isinstance(self.default, list))

    @property
    def _is_float(self) -> bool:
        return any(isinstance(number, float) for number in self._numbers(self.default))

    def _numbers(self, value: Any) -> list[Any]:
        if not isinstance(value, list):
            return [value]
        return value if self.inner is None else [number for part in value for number in part]

    def _fits(self, value: Any) -> bool:
        if isinstance(value, list) and self.lengths and len(value) not in self.lengths:
            return False
        if self.inner is not None and not all(isinstance(part, list) and len(part) >= self.inner for part in value):
            return False
        kinds = (int, float) if self._is_float else (int,)
        assert self.low is not None
        return all(
            type(number) in kinds
            and self.low <= number <= self.high
            and number < self.below
            and (number % 2 or not self.odd)
            for number in self._numbers(value)
        )

    def _bounds(self, is_list: bool) -> str:
        bounds = f"at least {self.low:g}" + (f" and below {self.below:g}" if self.below < math.inf else "")
        if self.high < math.inf:
            bounds = f"between {self.low:g} and {self.high:g}"
        if not is_list:
            return f"an odd number, {bounds}" if self.odd else bounds
        count = f"{'[] or ' if 0 in self.lengths else ''}{_COUNTS[max(self.lengths, default=0)]}"
        lists = {None: "", 0: "lists of "}.get(self.inner, "non-empty lists of ")
        kind = "odd " if self.odd else "" if self._is_float else "whole "
        return f"{count} {lists}{kind}numbers, each {bounds}"
