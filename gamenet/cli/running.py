"""Running a server from a command: the expected failures as one clear line each.

What stays true: only what goes wrong before the server listens is taken for a wrong address or a missing loop.
"""

from __future__ import annotations

from collections.abc import Callable

import click

from gamenet.run import LoopName, loop_factory, run
from gamenet.server import Server


def run_server(
    server: Server, host: str, port: int, loop: LoopName, on_ready: Callable[[], None] | None = None
) -> None:
    """As `gamenet.run`, with `click.ClickException` for what the user can put right."""
    _require(loop)
    is_ready = False

    def ready() -> None:
        nonlocal is_ready
        is_ready = True
        if on_ready is not None:
            on_ready()

    try:
        run(server, host, port, loop=loop, on_ready=ready)
    except OSError as error:
        if is_ready:
            raise
        raise click.ClickException(error.strerror or str(error)) from None


def _require(loop: LoopName) -> None:
    try:
        loop_factory(loop)
    except ModuleNotFoundError as error:
        if error.name != loop:
            raise
        raise click.ClickException(f"the event loop {loop} is not installed: pip install {loop}") from None
