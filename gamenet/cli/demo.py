"""`gamenet demo`: the demo game with a guest account, and bots on request.

What stays true: it needs nothing that is not there, and leaves nothing running.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from random import Random

import click

from gamenet.cli.live import Figures, show
from gamenet.cli.running import run_server
from gamenet.demo.accounts import Accounts, AccountsError
from gamenet.demo.bot_process import BotProcess
from gamenet.demo.fleet import Plan, Report
from gamenet.demo.game import Game
from gamenet.demo.world import World
from gamenet.run import LoopName
from gamenet.server import Server

GUEST = "guest"


def demo(host: str, port: int, loop: LoopName, accounts_path: str, bots: int, seed: int) -> None:
    """Run the game on `host` and `port` with `bots` simulated players, until it is told to stop."""
    try:
        with Accounts(accounts_path) as accounts:
            Demo(accounts, host, bots, seed).run(port, loop)
    except AccountsError as error:
        raise click.ClickException(f"{accounts_path}: {error}") from None


class Demo:
    """One run of the demo."""

    def __init__(self, accounts: Accounts, host: str, bots: int, seed: int) -> None:
        self._server = Server(max_packet_size=1024)
        self._game = Game(self._server, accounts, World(Random(seed)))
        self._host = host
        self._seed = seed
        self._guest_password = secrets.token_hex(6)
        accounts.set_password(GUEST, self._guest_password)
        self._bot_names = [f"bot-{number:03}" for number in range(1, bots + 1)]
        self._bot_password = secrets.token_urlsafe(24)
        accounts.set_random_password(self._bot_names, self._bot_password)
        self._bots: BotProcess | None = None
        self._live: asyncio.Task[None] | None = None

    def run(self, port: int, loop: LoopName) -> None:
        """Serve until Ctrl+C or SIGTERM."""
        try:
            run_server(self._server, self._host, port, loop, on_ready=lambda: self._start(loop))
        finally:
            if self._bots is not None:
                self._bots.stop()

    def _start(self, loop: LoopName) -> None:
        port = self._server.port
        click.echo(f"the demo game listens on {self._host} port {port}")
        click.echo(f"log in as {GUEST} with the password {self._guest_password}")
        click.echo("Ctrl+C ends it")
        if self._bot_names:
            self._bots = BotProcess(self._plan(port, loop), is_wanted=lambda: self._server.is_listening)
        # the runner of the event loop cancels it at the end, and waits for it
        self._live = asyncio.get_running_loop().create_task(show(self._figures, self._report))

    def _plan(self, port: int, loop: LoopName) -> Plan:
        return Plan(_reachable(self._host), port, self._bot_names, self._bot_password, self._seed, loop)

    def _figures(self) -> Figures:
        return Figures.of(time.monotonic(), len(self._game.arena), self._server.stats())

    def _report(self) -> Report | None:
        return None if self._bots is None else self._bots.report


def _reachable(host: str) -> str:
    """Where a client on this machine finds a server that listens on `host`."""
    return {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
