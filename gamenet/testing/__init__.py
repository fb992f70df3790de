"""gamenet.testing: servers and clients under test, without sockets, without waiting, and under chaos.

The public names; `docs/testing.md` shows them at work. Nothing here needs pytest; its fixtures are in the plugin
`pytest_gamenet`, which comes with gamenet.
"""

from gamenet.testing.chaos import Chaos, chaos
from gamenet.testing.clock import FakeClock
from gamenet.testing.leaks import LeakError, leak_check
from gamenet.testing.loop import DeadlockError, VirtualTimeLoop
from gamenet.testing.memory import MemoryTransport, memory_pair
from gamenet.testing.network import MemoryNetwork, serve
from gamenet.testing.proxy import ChaosProxy
from gamenet.testing.shaper import Ending, Shaper

__all__ = [
    "Chaos",
    "ChaosProxy",
    "DeadlockError",
    "Ending",
    "FakeClock",
    "LeakError",
    "MemoryNetwork",
    "MemoryTransport",
    "Shaper",
    "VirtualTimeLoop",
    "chaos",
    "leak_check",
    "memory_pair",
    "serve",
]
