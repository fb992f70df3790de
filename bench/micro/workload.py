"""What a micro benchmark is: one operation, done by both twins, and what it is set beside.

What stays true: nothing is timed before both twins, and every yardstick that gives something, gave the same.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from types import ModuleType

from bench.micro.twins import NAMES, twin

Run = Callable[[], object]

drop = deque[object](maxlen=0).extend
"""Take what an iterator gives and keep nothing: what is timed takes its results so, where `list` would be compared."""


class UnequalOutput(Exception):
    """The contenders of a workload do not give the same: there is nothing to compare."""


@dataclass(frozen=True)
class Yardstick:
    """Something else that does the work, or part of it. `output` is None if it gives nothing to compare."""

    name: str
    make: Callable[[], Run]
    output: Run | None = None


@dataclass(frozen=True)
class Workload:
    """One operation. `make(twin)` is a call that does it `count` times, ready to be timed; `output(twin)` is what
    it gives, for comparison. `count` is in units of `unit`: times are per unit.
    """

    name: str
    title: str
    unit: str
    count: int
    make: Callable[[ModuleType], Run]
    output: Callable[[ModuleType], object]
    beside: tuple[Yardstick, ...] = ()
    twins: tuple[str, ...] = NAMES

    @property
    def contenders(self) -> dict[str, Callable[[], Run]]:
        """By name, what makes the call to be timed: the twins first."""
        ours: dict[str, Callable[[], Run]] = {name: partial(self.make, twin(name)) for name in self.twins}
        return ours | {yardstick.name: yardstick.make for yardstick in self.beside}

    def require_equal_output(self) -> None:
        """`UnequalOutput` if the twins, or a yardstick that gives something, differ."""
        expected = self.output(twin("pure"))
        outputs: dict[str, Run] = {"compiled": lambda: self.output(twin("compiled"))}
        outputs |= {yardstick.name: yardstick.output for yardstick in self.beside if yardstick.output}
        for name, output in outputs.items():
            if output() != expected:
                raise UnequalOutput(f"{self.name}: {name} does not give what pure gives; nothing was timed")


def kept(make: Callable[..., Run]) -> Callable[..., object]:
    """What `make` gives: `make(take)`, or `make(twin, take)`, with results kept in a list instead of dropped."""
    return lambda *twin: make(*twin, list)()
