"""`python -m bench`: what is measured, and how to ask for it."""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import gamenet
from bench.memory.kinds import KINDS
from bench.memory.states import STATES
from bench.micro.workloads import WORKLOADS
from bench.net.modes import MODES
from bench.net.peer import PEERS
from bench.report import add_outputs

MICRO_EPILOG = """\
Before a workload is timed its contenders' outputs are compared; the first that differs ends the run. Then all of them
take their turn in every round, on the same bytes in this process, and ratios are taken per round. Yardsticks in C are
left out with a line where there is no compiler.
"""

NET_EPILOG = """\
All servers take turns in each round, on a core of their own; the load generator, on another core, compares every reply
byte by byte, and the first wrong, missing, doubled or reordered one ends the run. Rates are divided by that of the raw
C server in the same round. A server that cannot run here is left out with a line; without a C compiler there is no
generator, and nothing runs. Rounds in which the host or other programs took too much time are repeated. "busy" is the
share of its turn that a server had its core: one far below 100 % waited for the generator.
"""

MEMORY_EPILOG = """\
Every figure has servers of its own. The clients are plain sockets in this process, so that only the server's memory
(VmRSS) is read: before and after so many sessions came, each time when the server says that all of them are in the
state and its garbage is collected. "of that waits" is what the server itself counts as waiting: bytes that arrived and
were not dispatched, or were sent and not taken by the system. The kernel's memory, socket buffers first of all, is not
counted. What each figure consists of, and which limit bounds it: docs/memory.md.
"""


NEEDS_LINUX = {"net": "its load generator uses epoll", "memory": "it reads a process's memory from /proc"}


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description="Measure gamenet on this machine, beside what one would use instead.",
        epilog="Beside these: python -m bench.robustness (what floods and stuck receivers do to the others), "
        "bench.resume (fleets that come back, and what resume costs), bench.report (tables of pytest-benchmark's).",
    )
    commands = parser.add_subparsers(dest="command", required=True)
    about_micro = "single operations, pure against compiled (about half a minute)"
    _add_micro(commands.add_parser("micro", help=about_micro, epilog=MICRO_EPILOG))
    _add_net(commands.add_parser("net", help="servers over loopback (under 5 minutes; Linux)", epilog=NET_EPILOG))
    _add_threads(commands.add_parser("threads", help="calls from four threads (about half a minute)"))
    about_memory = "bytes per session in every state (about 5 minutes; Linux)"
    _add_memory(commands.add_parser("memory", help=about_memory, epilog=MEMORY_EPILOG))
    options = parser.parse_args()
    if gamenet.backend != "compiled":
        sys.exit("this gamenet is not built; build it in this checkout with: pip install -e '.[bench]'")
    if options.command == "micro":
        from bench.micro.run import main as run_micro

        run_micro(options.rounds, options.only, options.table, options.plot)
    elif options.command == "threads":
        from bench.threads import main as run_threads

        run_threads(options.items, options.rounds)
    elif sys.platform != "linux":
        sys.exit(f"bench {options.command} needs Linux: {NEEDS_LINUX[options.command]}")
    elif options.command == "net":
        from bench.net.run import main as run_net

        run_net(options.rounds, options.seconds, options.mode, options.peer, options.plot)
    else:
        from bench.memory.run import main as run_memory

        run_memory(options.sessions, options.rounds, options.loop, options.state, options.transport)


def _add_micro(micro: argparse.ArgumentParser) -> None:
    micro.add_argument("--rounds", type=_positive(int), default=15, help="rounds per workload (default: 15)")
    micro.add_argument(
        "--only", action="append", choices=[workload.name for workload in WORKLOADS], metavar="NAME",
        help="measure this workload only; may be given more than once (default: all): "
        + ", ".join(workload.name for workload in WORKLOADS),
    )
    add_outputs(micro)


def _add_threads(threads: argparse.ArgumentParser) -> None:
    threads.add_argument("--items", type=_positive(int), default=25_000, help="calls per thread (default: 25000)")
    threads.add_argument("--rounds", type=_positive(int), default=9, help="rounds (default: 9)")


def _add_net(net: argparse.ArgumentParser) -> None:
    net.add_argument("--rounds", type=_positive(int), default=7, help="rounds per mode (default: 7)")
    net.add_argument(
        "--seconds", type=_positive(float), default=0.4, help="seconds of load per round and server (default: 0.4)"
    )
    net.add_argument(
        "--mode", action="append", choices=[mode.name for mode in MODES],
        help="measure this mode only; may be given more than once (default: all)",
    )
    net.add_argument(
        "--peer", action="append", choices=[peer.name for peer in PEERS], metavar="NAME",
        help="measure this server only, beside the baseline; may be given more than once (default: all): "
        + "; ".join(peer.name for peer in PEERS),
    )
    net.add_argument("--plot", type=Path, metavar="FILE.png", help="draw the tables too (needs matplotlib)")


def _add_memory(memory: argparse.ArgumentParser) -> None:
    memory.add_argument("--sessions", type=_positive(int), default=1000, help="sessions per figure (default: 1000)")
    memory.add_argument("--rounds", type=_positive(int), default=3, help="servers per figure (default: 3)")
    memory.add_argument("--loop", choices=["uvloop", "asyncio"], default="uvloop", help="(default: uvloop)")
    memory.add_argument(
        "--transport", action="append", choices=[kind.name for kind in KINDS], metavar="NAME",
        help="measure this server only; may be given more than once (default: all): "
        + "; ".join(kind.name for kind in KINDS),
    )
    memory.add_argument(
        "--state", action="append", choices=[state.name for state in STATES], metavar="NAME",
        help="measure this state only; may be given more than once (default: all): "
        + "; ".join(state.name for state in STATES),
    )


def _positive(kind: Callable[[str], float]) -> Callable[[str], float]:
    def parse(text: str) -> float:
        value = kind(text)
        if value <= 0:
            raise argparse.ArgumentTypeError(f"{value} is not above 0")
        return value

    return parse


if __name__ == "__main__":
    main()
