"""The commands: names, options and help texts. What each does stands in a module of its own name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

import gamenet as package
from gamenet.cli import demo as demo_command
from gamenet.cli import serve as serve_command
from gamenet.cli.logs import LEVELS, log_to_stderr
from gamenet.run import LoopName

CommandT = TypeVar("CommandT", bound=Callable[..., Any])

_VERSION = f"gamenet %(version)s ({package.backend})"


def _log_level(default: str) -> Callable[[CommandT], CommandT]:
    return click.option("--log-level", type=click.Choice(LEVELS), default=default, help="Least important lines to log.")


def _listen_options(command: CommandT) -> CommandT:
    """What every command that runs a server takes."""
    loops = click.Choice(["auto", "asyncio", "uvloop", "winloop"])
    for option in (
        click.option("--loop", type=loops, default="auto", help="Event loop; auto takes the fastest installed."),
        click.option("--port", type=click.IntRange(0, 65535), default=9000, help="Port; 0 takes a free one."),
        click.option("--host", default="127.0.0.1", help="Address to listen on; 0.0.0.0 for every IPv4 address."),
    ):
        command = option(command)
    return command


@click.group(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.version_option(package.__version__, message=_VERSION)
def gamenet() -> None:
    """Servers for online games: sessions, packets and zero-copy framing.

    Every command ends with Ctrl+C or SIGTERM; what was sent still leaves.
    """


@gamenet.command()
@_listen_options
@click.option("--accounts", metavar="FILE", default=":memory:", help="SQLite file to keep the accounts in.")
@click.option("--bots", type=click.IntRange(0, 1000), default=0, help="Simulated players, in a process of their own.")
@click.option("--seed", type=int, default=1, help="Where the arena's and the bots' randomness starts.")
@_log_level("warning")
def demo(
    host: str, port: int, loop: LoopName, log_level: str, accounts: str, bots: int, seed: int
) -> None:
    """Run the demo game: log in, chat, walk, fight.

    Works at once, with nothing to set up: prints the account to log in with. In the accounts file, the names "guest"
    and "bot-..." are the demo's, and get new passwords at each start.
    """
    log_to_stderr(log_level)
    demo_command.demo(host, port, loop, accounts, bots, seed)


@gamenet.command()
@click.argument("target", metavar="MODULE:SERVER")
@_listen_options
@click.option("--tls-cert", metavar="FILE", help="TLS with this certificate chain (PEM).")
@click.option("--tls-key", metavar="FILE", help="Its private key (PEM).")
@click.option("--metrics-port", type=click.IntRange(0, 65535), help="Answer Prometheus here; 0 takes a free port.")
@click.option("--metrics-host", default="127.0.0.1", help="Address for it.")
@click.option("--metrics-handlers", is_flag=True, help="Time each handler too; costs part of a microsecond a packet.")
@_log_level("info")
def serve(
    target: str,
    host: str,
    port: int,
    loop: LoopName,
    log_level: str,
    tls_cert: str | None,
    tls_key: str | None,
    metrics_port: int | None,
    metrics_host: str,
    metrics_handlers: bool,
) -> None:
    """Run the gamenet.Server called SERVER of the module MODULE.

    MODULE is looked for in the current folder first. Example: gamenet serve chat_server:server --port 9000
    """
    log_to_stderr(log_level)
    metrics = None
    if metrics_port is not None:
        metrics = serve_command.MetricsOptions(metrics_host, metrics_port, metrics_handlers)
    serve_command.serve(target, host, port, loop, tls_cert, tls_key, metrics)
