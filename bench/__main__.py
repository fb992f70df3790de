"""`python -m bench`: what is measured, and how to ask for it."""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import gamenet
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


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench", description="Measure gamenet on this machine, beside what one would use instead."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    about_micro = "single operations, pure against compiled (about half a minute)"
    _add_micro(commands.add_parser("micro", help=about_micro, epilog=MICRO_EPILOG))
    _add_net(commands.add_parser("net", help="servers over loopback (under 5 minutes; Linux)", epilog=NET_EPILOG))
    options = parser.parse_args()
    if gamenet.backend != "compiled":
        sys.exit("this gamenet is not built; build it in this checkout with: pip install -e '.[bench]'")
    if options.command == "micro":
        from bench.micro.run import main as run_micro

        run_micro(options.rounds, options.only, options.table, options.plot)
    elif sys.platform != "linux":
        sys.exit("bench net needs Linux: its load generator uses epoll")
    else:
        from bench.net.run import main as run_net

        run_net(options.rounds, options.seconds, options.mode, options.peer, options.plot)


def _add_micro(micro: argparse.ArgumentParser) -> None:
    micro.add_argument("--rounds", type=_positive(int), default=15, help="rounds per workload (default: 15)")
    micro.add_argument(
        "--only", action="append", choices=[workload.name for workload in WORKLOADS], metavar="NAME",
        help="measure this workload only; may be given more than once (default: all): "
        + ", ".join(workload.name for workload in WORKLOADS),
    )
    add_outputs(micro)


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


def _positive(kind: Callable[[str], float]) -> Callable[[str], float]:
    def parse(text: str) -> float:
        value = kind(text)
        if value <= 0:
            raise argparse.ArgumentTypeError(f"{value} is not above 0")
        return value

    return parse


if __name__ == "__main__":
    main()
