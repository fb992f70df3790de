"""What may happen to the bytes of one direction, as data.

What stays true: a `Chaos` was checked when it was made, does not change, and has no state: one may serve any number
of connections. What it does is in `shaper`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

Span = tuple[int, int]
Timed = tuple[int, float]


_TAKES = {
    "split": "a number of bytes, or (lowest, highest)",
    "coalesce": "(bytes, seconds)",
    "drip": "(bytes, seconds)",
    "stall": "a number of bytes, or (bytes, seconds)",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Chaos:
    """The settings of one direction, as `chaos()` makes them. None: that does not happen."""

    split: Span | None = None
    coalesce: Timed | None = None
    drip: Timed | None = None
    stall: Timed | None = None
    reset: int | None = None
    half_close: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        self._check_types()
        if self.split is not None:
            low, high = self.split
            _check_size("split", min(low, high), 1)
            if high < low:
                raise ValueError(f"split takes the smallest and the largest piece, got {low} and {high}")
        for name in ("coalesce", "drip"):
            timed: Timed | None = getattr(self, name)
            if timed is not None:
                _check_size(name, timed[0], 1)
                if not 0 < timed[1] < math.inf:
                    raise ValueError(f"{name}: {timed[1]} s is no time above 0")
        if self.stall is not None:
            _check_size("stall", self.stall[0], 0)
            if not self.stall[1] > 0:
                raise ValueError(f"stall: {self.stall[1]} s is not above 0")
        for name in ("reset", "half_close"):
            after: int | None = getattr(self, name)
            if after is not None:
                _check_size(name, after, 0)
        if self.reset is not None and self.half_close is not None:
            raise ValueError("a direction ends once: either reset or half_close")

    def _check_types(self) -> None:
        for name, takes in _TAKES.items():
            pair = getattr(self, name)
            if pair is not None and not _is_pair(pair, int if name == "split" else float):
                raise TypeError(f"{name} takes {takes}, got {pair!r}")
        for name in ("reset", "half_close"):
            after = getattr(self, name)
            if not isinstance(after, int | None):
                raise TypeError(f"{name} takes a number of bytes, got {after!r}")


def chaos(
    *,
    split: int | Span | None = None,
    coalesce: Timed | None = None,
    drip: Timed | None = None,
    stall: int | Timed | None = None,
    reset: int | None = None,
    half_close: int | None = None,
    seed: int = 0,
) -> Chaos:
    """What happens to the bytes of one direction. Sizes in bytes, times in seconds; everything combines.

    `split=n`: pieces of 1 to n bytes, or of `split=(low, high)`: 1 is byte by byte.
    `coalesce=(n, t)`: bytes wait until n of them are there or the first has waited t; then they come as one piece.
    `drip=(n, t)`: at most n bytes in each t.
    `stall=(n, t)`: what follows the first n bytes waits t once; `stall=n`: for ever.
    `reset=n`: behind n bytes the connection breaks as by a RST: both ends get `ConnectionResetError`, and what was
    not delivered is lost in both directions. `half_close=n`: behind n bytes comes EOF; the rest is lost.

    `seed` decides the random sizes: with the same seed the cuts fall at the same places of the stream, whenever its
    bytes come. `ValueError` or `TypeError`, naming the setting, for what cannot be.
    """
    return Chaos(
        split=(1, split) if isinstance(split, int) else split,
        coalesce=coalesce,
        drip=drip,
        stall=(stall, math.inf) if isinstance(stall, int) else stall,
        reset=reset,
        half_close=half_close,
        seed=seed,
    )


def check_chaos(**directions: object) -> None:
    """`TypeError` for what `chaos()` did not make, and is not None."""
    for name, chaos in directions.items():
        if not isinstance(chaos, Chaos | None):
            raise TypeError(f"{name} takes what chaos() gives, got {chaos!r}")


def _is_pair(value: object, second: type[int] | type[float]) -> bool:
    if not isinstance(value, (tuple, list)) or len(value) != 2:
        return False
    return isinstance(value[0], int) and isinstance(value[1], (int, second))


def _check_size(name: str, value: int, lowest: int) -> None:
    if value < lowest:
        raise ValueError(f"{name} {value} is below {lowest}")
