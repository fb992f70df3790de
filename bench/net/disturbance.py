"""What a measurement lost to others: time that the host of a virtual machine stole, and time that a process was ready
to run but other programs of this machine had its core. No benchmark can see either in its own figures.
"""

from pathlib import Path

_STEAL, _FIELDS = 7, 8  # user nice system idle iowait irq softirq steal; guest time is in user already: proc(5)


class StolenTime:
    """The share of all cores' time that was stolen since this was made."""

    def __init__(self) -> None:
        self._before = _cpu_times()

    def share(self) -> float:
        """0 to 1."""
        passed = [now - before for now, before in zip(_cpu_times(), self._before, strict=True)]
        return passed[_STEAL] / max(1, sum(passed))


class ProcessTime:
    """The seconds that a process had a core, and that it waited for one, since this was made; 0 where the kernel
    does not count them.
    """

    def __init__(self, pid: int) -> None:
        self._path = Path(f"/proc/{pid}/schedstat")
        self._before = self._now()

    def ran_and_waited(self) -> tuple[float, float]:
        ran, waited = (now - before for now, before in zip(self._now(), self._before, strict=True))
        return ran / 1e9, waited / 1e9

    def _now(self) -> list[int]:
        # running, waiting (both ns), time slices: Documentation/scheduler/sched-stats.rst of the kernel
        return [int(field) for field in self._path.read_text().split()[:2]] if self._path.exists() else [0, 0]


def _cpu_times() -> list[int]:
    return [int(field) for field in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1 : 1 + _FIELDS]]
