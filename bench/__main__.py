"""`python -m bench`: what is measured, and how to ask for it."""

import argparse
import sys

import gamenet


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench", description="Measure gamenet on this machine, beside what one would use instead."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    micro = commands.add_parser("micro", help="single operations, pure against compiled (about 20 s)")
    micro.add_argument("--rounds", type=int, default=15, help="rounds per operation (default: 15)")
    net = commands.add_parser("net", help="servers over loopback, beside asyncio + struct (about 1 minute; Linux)")
    net.add_argument("--rounds", type=int, default=7, help="rounds per mode (default: 7)")
    net.add_argument("--seconds", type=float, default=1.0, help="seconds of load per round and server (default: 1)")
    net.add_argument("--mode", action="append", help="pipelined, fan-in or pingpong (default: all)")
    options = parser.parse_args()
    if gamenet.backend != "compiled":
        sys.exit("this gamenet is not built; build it in this checkout with: pip install -e '.[bench]'")
    if options.command == "micro":
        from bench.micro.report import main as run_micro

        run_micro(options.rounds)
    else:
        from bench.net.report import main as run_net

        run_net(options.rounds, options.seconds, options.mode)


if __name__ == "__main__":
    main()
